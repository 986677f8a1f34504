# Boot sector of a guest that reads its disk through the firmware and tells how that was done.
#
# It reads BLOCKS blocks of 64 sectors behind itself by INT 13h (AH=42h, Enhanced Disk Drive), adds
# them up, and looks whether the IDE controller's bus master was used: the firmware leaves the
# address of its descriptor table there (PIIX3 data sheet, 2.8: BMIDTP at base + 4), which is 0
# after reads by PIO. It says on COM1, and waits to be destroyed:
#
#     LAB-HVM dma=1 sum=XXXXXXXX      or      LAB-HVM error=XX (what INT 13h left in AH)

.code16
.set BLOCKS, 64
.set BUFFER_SEGMENT, 0x1000
.set COM1, 0x3f8
.set IDE, 0x80000900                    # bus 0, device 1, function 1 (PCI 3.0, 3.2.2.3.2)
.set PIIX3_IDE, 0x70108086

.globl _start
_start:
	ljmp $0, $1f
1:	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $0x7c00, %sp
	cld
	sti
	mov %dl, drive
	xor %ebx, %ebx                  # the sum
next:	mov $packet, %si
	mov drive, %dl
	mov $0x42, %ah
	int $0x13
	jc failed
	push %ds
	mov $BUFFER_SEGMENT, %ax
	mov %ax, %ds
	xor %si, %si
	mov $64 * 512 / 4, %cx
1:	lodsl
	rol $1, %ebx
	add %eax, %ebx
	loop 1b
	pop %ds
	addl $64, sector
	decw left
	jnz next

	mov $IDE, %eax
	call config
	cmp $PIIX3_IDE, %eax
	jne report
	mov $IDE + 0x20, %eax           # BAR 4: the bus master's ports
	call config
	and $0xfff0, %ax
	jz report
	mov %ax, %dx
	add $4, %dx
	inl %dx, %eax
	test %eax, %eax
	jz report
	incb dma
report:	mov $result, %si
	call say
	mov %ebx, %eax
	mov $8, %cx
	call hex
	jmp end

failed:	mov %ah, %al
	shl $24, %eax
	mov $error, %si
	call say
	mov $2, %cx
	call hex
end:	mov $newline, %si
	call say
1:	hlt
	jmp 1b

# The register of PCI configuration space that EAX names, in EAX.
config:	mov $0xcf8, %dx
	outl %eax, %dx
	mov $0xcfc, %dx
	inl %dx, %eax
	ret

# Print the text at SI, which ends with 0. Keeps EAX.
say:	push %eax
1:	lodsb
	test %al, %al
	jz 2f
	call put
	jmp 1b
2:	pop %eax
	ret

# Print the CX highest digits of EAX.
hex:	rol $4, %eax
	push %eax
	and $0xf, %al
	cmp $10, %al
	sbb $0x69, %al                  # 0 to 15 become the ASCII of 0 to F, by the classic way
	das
	call put
	pop %eax
	loop hex
	ret

# Print AL.
put:	push %ax
	mov $COM1 + 5, %dx              # line status: bit 5 says that a byte may be written
1:	inb %dx, %al
	test $0x20, %al
	jz 1b
	pop %ax
	mov $COM1, %dx
	outb %al, %dx
	ret

result:	.ascii "LAB-HVM dma="
dma:	.ascii "0"
	.asciz " sum="
error:	.asciz "LAB-HVM error="
newline: .asciz "\r\n"
drive:	.byte 0
left:	.word BLOCKS

.balign 4
packet:	.byte 16, 0
	.word 64                        # sectors
	.word 0, BUFFER_SEGMENT
sector:	.quad 1

.org 510
	.word 0xaa55
