# Source this in bash or zsh, from anywhere, then run torchserve from the project's root:
#   source serve/env.sh && torchserve --start --models newsgroups.mar
# Sets TS_CONFIG_FILE, JAVA_HOME and PYTHONDONTWRITEBYTECODE, and OPENBLAS_NUM_THREADS where it is not set; unsets
# PYTHONPATH. Where no Java is found it prints the mend and returns 1; the shell goes on.

_newsgroups_env() {
    local file="$1" folder python home
    folder="$(cd -- "$(dirname -- "$file")" > /dev/null && pwd)" || return 1
    python="$(command -v python || command -v python3)" || {
        echo "serve/env.sh: no python found: activate the virtual environment of this project" >&2
        return 1
    }
    home="$("$python" "$folder/java.py")" || return 1
    export TS_CONFIG_FILE="$folder/config.properties"
    export JAVA_HOME="$home"
    # TorchServe puts it before an archive's folder: this checkout's code would run in place of the archive's.
    unset PYTHONPATH
    # Of NumPy's products in a worker, which are small: those of the transformer have the cores.
    export OPENBLAS_NUM_THREADS="${OPENBLAS_NUM_THREADS:-1}"
    # A worker writes nothing, not even the bytecode of the archive's modules beside them.
    export PYTHONDONTWRITEBYTECODE=1
}

# bash names the sourced file in BASH_SOURCE, zsh in $0.
_newsgroups_env "${BASH_SOURCE:-$0}"
