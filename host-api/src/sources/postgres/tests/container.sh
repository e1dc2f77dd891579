#!/bin/bash
# `docker exec -i [-e NAME[=VALUE]]… CONTAINER COMMAND…` without a container, as far as a client of it can tell: the command has an
# environment of its own and is nobody's child here. When this client is killed, it goes on: its input ends, its output stays open.
set -u
here=$(dirname "$0")

# The other side, started below: holds the pipes open whatever becomes of the client, and closes them when the command has ended.
if [ "$1" = daemon ]; then
    dir=$2 client=$3
    shift 3
    . "$dir/variables"
    exec 3<>"$dir/in" 4<>"$dir/out" 5<>"$dir/err"
    until [ -e "$dir/attached" ]; do sleep 0.01; done
    (
        for variable in "${variables[@]}"; do export "$variable"; done
        exec "$@" <"$dir/in" >"$dir/out" 2>"$dir/err" 3>&- 4>&- 5>&-
    ) &
    command=$!
    echo "$command" >"$dir/pid"
    while kill -0 "$command" 2>/dev/null; do
        if [ -e "$dir/eof" ] || ! kill -0 "$client" 2>/dev/null; then exec 3>&-; fi
        # As a container's log does in the end: takes what nobody else reads.
        if [ -e "$here/drain" ] && [ -z "${draining-}" ]; then
            draining=yes
            cat <"$dir/out" >/dev/null 3>&- 4>&- 5>&- &
        fi
        sleep 0.01
    done
    wait "$command"
    echo $? >"$dir/code"
    exit
fi

printf '%s\n' "$*" >>"$here/log"
[ "$1" = exec ] || exit 64
shift
variables=()
while true; do
    case $1 in
    -i) shift ;;
    -e)
        # Only named: the value is that of the client's environment, if there is one.
        case $2 in
        *=*) variables+=("$2") ;;
        *) if [ -n "${!2+set}" ]; then variables+=("$2=${!2}"); fi ;;
        esac
        shift 2
        ;;
    -*) exit 64 ;;
    *) break ;;
    esac
done
shift

dir=$(mktemp -d "$here/exec.XXXXXX")
mkfifo "$dir/in" "$dir/out" "$dir/err"
declare -p variables >"$dir/variables"
env -i PATH="$PATH" HOME=/ setsid --fork "$0" daemon "$dir" "$$" "$@" </dev/null >/dev/null 2>&1

exec 6<"$dir/out" 7<"$dir/err" 8>"$dir/in" 9<&0
cat <&6 8>&- 9<&- &
out=$!
cat <&7 >&2 8>&- 9<&- &
err=$!
(
    cat <&9 >&8
    : >"$dir/eof"
) &
in=$!
exec 8>&-
: >"$dir/attached"
wait "$out" "$err"
kill "$in" 2>/dev/null
read -r code <"$dir/code"
exit "$code"
