#!/bin/bash
# `kubectl` of a cluster with one deployment, notes: the files `replicas`, `image` and `pods` (one a line; with a file `slow`, pods stay as
# they are). Every command line goes into `log`.
here=$(dirname "$0")
printf '%s\n' "$*" >>"$here/log"
while [ "${1#--}" != "$1" ]; do shift; done
case "$1 $2" in
"get deployment/notes") cat "$here/replicas" ;;
"get pods") cat "$here/pods" ;;
"set image")
    [ "$3" = deployment/notes ] || exit 1
    echo "$4" >"$here/image"
    ;;
"scale deployment/notes")
    printf %s "${3#--replicas=}" >"$here/replicas"
    [ -e "$here/slow" ] && exit 0
    : >"$here/pods"
    for ((n = 0; n < ${3#--replicas=}; n++)); do echo "pod/notes-$n" >>"$here/pods"; done
    ;;
*)
    echo "Error from server (NotFound): $2 not found" >&2
    exit 1
    ;;
esac
