#!/bin/bash
# `systemctl` of a manager with one unit, notes.service, whose state is the file `active`; every command line goes into `log`.
here=$(dirname "$0")
printf '%s\n' "$*" >>"$here/log"
[ "$1" = --user ] && shift
unit=${!#}
case $1 in
show)
    if [ "$unit" != notes.service ]; then
        printf 'LoadState=not-found\nActiveState=inactive\n'
    else
        printf 'LoadState=loaded\nActiveState=%s\n' "$(cat "$here/active")"
    fi
    ;;
--no-ask-password)
    [ "$unit" = notes.service ] || exit 5
    case $2 in
    start) echo active >"$here/active" ;;
    stop) echo inactive >"$here/active" ;;
    *) exit 64 ;;
    esac
    ;;
*) exit 64 ;;
esac
