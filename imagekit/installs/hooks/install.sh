#!/bin/sh
# mmdebstrap calls this with a tree that was stored and in which a few more packages are wanted;
# apt installs them as mmdebstrap installs what it includes (mmdebstrap, run_install).
set -eu
root=$1
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" TMPDIR="$root/tmp"
set -f
# Names for apt: split.
# shellcheck disable=SC2086
set -- $IMAGEKIT_ADDED
apt-get -o Dir::Bin::dpkg=env -o DPkg::Options::=--unset=TMPDIR -o DPkg::Options::=dpkg \
	-o "DPkg::Chroot-Directory=$root" -o Dpkg::Use-Pty=0 --yes install -- "$@"
