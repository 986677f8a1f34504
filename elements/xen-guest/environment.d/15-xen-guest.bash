export DIB_XEN_INITRD_MODULES=${DIB_XEN_INITRD_MODULES:-xen-blkfront xen-netfront}
export DIB_XEN_CONSOLES=${DIB_XEN_CONSOLES:-tty0 ttyS0,115200n8 hvc0}
export DIB_INITRD_LATER=${DIB_INITRD_LATER:-0}
xen_guest_cmdline=
for xen_guest_console in ${DIB_XEN_CONSOLES}; do
    xen_guest_cmdline="${xen_guest_cmdline:+${xen_guest_cmdline} }console=${xen_guest_console}"
done
# Every phase sources this file again: add the consoles once.
case " ${DIB_BOOTLOADER_DEFAULT_CMDLINE:-} " in
    *" ${xen_guest_cmdline} "*) ;;
    *)
        export DIB_BOOTLOADER_DEFAULT_CMDLINE="${DIB_BOOTLOADER_DEFAULT_CMDLINE:-nofb nomodeset gfxpayload=text} ${xen_guest_cmdline}"
        ;;
esac
export DIB_XEN_CMDLINE=${xen_guest_cmdline}
