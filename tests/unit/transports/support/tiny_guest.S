/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest in one boot sector: does what the test says by the first serial
 * line, at once, where a kernel would take seconds to come up.
 *
 *   p  panic (pvpanic, docs/specs/pvpanic.rst of QEMU)
 *   o  power-off (ACPI PM1a control of QEMU's q35 machine)
 *   r  reset (keyboard controller)
 *   w  arm the watchdog and forget it (ib700: 0 s)
 *   d  write to the second disk: answers D, or E for an error
 *
 * Anything else is echoed.
 */
	.code16
	.globl _start
_start:
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
next:
	movw	$0x3fd, %dx
	inb	%dx, %al
	testb	$1, %al
	jnz	get
	hlt			/* the BIOS's timer wakes it */
	jmp	next
get:
	movw	$0x3f8, %dx
	inb	%dx, %al
	cmpb	$'p', %al
	je	panic
	cmpb	$'o', %al
	je	off
	cmpb	$'r', %al
	je	reset
	cmpb	$'w', %al
	je	watchdog
	cmpb	$'d', %al
	je	disk
	call	say
	jmp	next
panic:
	movw	$0x505, %dx
	movb	$1, %al
	outb	%al, %dx
	jmp	next
off:
	movw	$0x604, %dx
	movw	$0x2000, %ax
	outw	%ax, %dx
	jmp	next
reset:
	movb	$0xfe, %al
	outb	%al, $0x64
1:	hlt
	jmp	1b
watchdog:
	movw	$0x443, %dx
	movb	$0xf, %al
	outb	%al, %dx
	jmp	next
disk:
	movw	$0x0301, %ax	/* write one sector */
	movw	$0x0001, %cx
	movw	$0x0081, %dx
	movw	$0x7c00, %bx
	int	$0x13
	movb	$'E', %al
	jc	1f
	movb	$'D', %al
1:	call	say
	jmp	next
say:
	pushw	%ax
	movw	$0x3fd, %dx
1:	inb	%dx, %al
	testb	$0x20, %al
	jz	1b
	popw	%ax
	movw	$0x3f8, %dx
	outb	%al, %dx
	ret
	.org	510
	.word	0xaa55
