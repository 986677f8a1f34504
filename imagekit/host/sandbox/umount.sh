#!/bin/sh
# Stands for umount: whoever asks for force, as diskimage-builder does, would be refused, for that is
# the host's alone in file systems that are the host's. Nothing here needs it: none is a network's.
set -eu
for word; do
	shift
	case $word in
		--force | -f) continue ;;
		--*) ;;
		-*f*) word=$(printf %s "$word" | tr -d f) ;;
	esac
	set -- "$@" "$word"
done
exec /usr/bin/umount "$@"
