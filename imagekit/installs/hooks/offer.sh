#!/bin/sh
# mmdebstrap calls this with the tree before it fetches anything. It asks imagekit (by lines on
# descriptor 9, standard error) for packages of earlier builds, by their digests in the signed
# index, and puts them where apt looks first. What is not given, apt fetches; what fails here,
# mmdebstrap does itself, and tells why.
set -eu
root=$1
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
# The lists of a moment ago, if this run has any: apt asks whether they are still right.
if [ -d /imagekit/sources/lists ]; then
	find /imagekit/sources/lists -type f \
		-exec cp --preserve=timestamps -t "$root/var/lib/apt/lists" {} +
fi
apt-get -qq --error-on=any update || exit 0
set -f
# Words for apt, of patterns and names: split.
# shellcheck disable=SC2086
set -- ${IMAGEKIT_WANTED:-}
uris=$(apt-get -qq --print-uris --yes -o Debug::NoLocking=1 -o Acquire::ForceHash=SHA256 \
	install -- "$@") || exit 0
printf '%s\n' "$uris" | while read -r _uri name _size hash; do
	case $hash in
	SHA256:*) echo "imagekit wants ${hash#SHA256:} $name" >&2 ;;
	esac
done
echo "imagekit wants no more" >&2
read -r _ < /imagekit/offered/.answer
mkdir -p "$root/var/cache/apt/archives"
find /imagekit/offered -maxdepth 1 -type f -name '*.deb' \
	-exec cp --no-preserve=all -t "$root/var/cache/apt/archives" {} +
