#!/bin/sh
# Stands for sudo where everything runs as the sandbox's root already: drops sudo's options.
set -eu
while [ $# -gt 0 ]; do
	case $1 in
		--) shift; break ;;
		-u | -g | -p | -C | --user | --group) shift 2 ;;
		-*) shift ;;
		*) break ;;
	esac
done
exec env "$@"
