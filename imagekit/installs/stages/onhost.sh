set -eu
LC_ALL=C
export LC_ALL
: "${POLL_SECONDS:=5}"

say() {
	printf '%s: %s\n' "$NAME" "$*"
}

die() {
	printf '%s: %s\n' "$NAME" "$*" >&2
	exit 1
}

usage() {
	cat >&2 <<END
usage: $0 install [--force] [MODE]   install the guest, then let it boot its own disk
       $0 flip install|local [MODE]  choose what $NAME.cfg is
       $0 start                      create the domain from $NAME.cfg
MODE is one of: $MODES (default: the first)
END
	exit 2
}

# The configs name their files by absolute paths.
in_place() {
	here=$(cd -- "$(dirname -- "$0")" && pwd -P)
	there=$(cd -- "$DIRECTORY" 2>/dev/null && pwd -P) || there=
	[ "$here" = "$there" ] || die "the configs name files in $DIRECTORY: put this directory there"
}

# Reason 1 is SHUTDOWN_reboot (xen/include/public/sched.h); "xl list -v" prints it in hexadecimal.
state() {
	listed=$(xl list -v) || die "xl list fails: is this dom0, and are you root?"
	printf '%s\n' "$listed" | awk -v name="$NAME" '
		$1 == name {
			found = 1
			if ($5 ~ /d/) print "running"
			else if ($5 ~ /c/) print "crashed"
			else if ($5 ~ /s/ && $8 == "1") print "rebooted"
			else print "running"
		}
		END { if (!found) print "absent" }'
}

blank() {
	[ -z "$(dd if="$DISK" bs=65536 count=16 2>/dev/null | tr -d '\000' | od -An -c | head -n 1)" ]
}

wait_for_end() {
	waited=0
	while :; do
		now=$(state)
		case $now in
			absent) return 0 ;;
			crashed) die "the installer crashed; when you have seen enough: xl destroy $NAME" ;;
			rebooted)
				die "the installer rebooted instead of powering off; its domain was kept: xl destroy $NAME"
				;;
		esac
		[ "$waited" -lt "$TIMEOUT" ] ||
			die "the installation takes longer than $TIMEOUT s and goes on; see: xl console $NAME"
		sleep "$POLL_SECONDS"
		waited=$((waited + POLL_SECONDS))
	done
}

flip() {
	case $1 in
		install) config=$NAME.$mode.install.xl.cfg ;;
		local) config=$NAME.$mode.xl.cfg ;;
		*) usage ;;
	esac
	ln -sf -- "$config" "$DIRECTORY/.$NAME.cfg.new"
	mv -f -- "$DIRECTORY/.$NAME.cfg.new" "$DIRECTORY/$NAME.cfg"
	say "$NAME.cfg is now $config"
}

install() {
	now=$(state)
	[ "$now" = absent ] || die "the domain exists; end it first: xl shutdown -w $NAME"
	if [ ! -e "$DISK" ]; then
		(umask 077 && truncate -s "$SIZE" -- "$DISK")
	elif ! blank && [ "$force" = no ]; then
		die "$DISK holds data; --force lets the installer overwrite it"
	fi
	flip install
	xl create "$DIRECTORY/$NAME.cfg"
	say "the installer runs; watch it with: xl console $NAME"
	wait_for_end
	if blank; then
		die "the installer ended and left the disk empty"
	fi
	flip local
	say "installed; start it with: $0 start"
}

[ $# -gt 0 ] || usage
command=$1
shift
what=
if [ "$command" = flip ]; then
	[ $# -gt 0 ] || usage
	what=$1
	shift
fi
force=no
mode=${MODES%% *}
for word; do
	case " --force $MODES " in
		*" $word "*) ;;
		*) usage ;;
	esac
	if [ "$word" = --force ]; then force=yes; else mode=$word; fi
done
in_place
case $command in
	install) install ;;
	flip) flip "$what" ;;
	start) xl create "$DIRECTORY/$NAME.cfg" ;;
	*) usage ;;
esac
