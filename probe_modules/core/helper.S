/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The program that the loader starts: a complete static ELF executable, as data.
 *
 *	helper l FILE PARAMS	open(FILE), finit_module(fd, PARAMS, 0)
 *	helper u NAME		delete_module(NAME, O_NONBLOCK)
 *
 * It needs no file of the guest's user space, and exits with the errno.
 */
#ifndef CONFIG_X86_64
#error "VESPER in a guest is for x86-64 only"
#endif

#include <linux/linkage.h>

#define BASE		0x400000
#define PT_LOAD		1
#define PT_GNU_STACK	0x6474e551
#define PF_R_X		5
#define PF_RW_		6

#define NR_open			2
#define NR_delete_module	176
#define NR_exit_group		231
#define NR_finit_module		313
#define O_NONBLOCK		0x800

	.section .rodata
	.balign 16
	.globl vsp_helper
vsp_helper:
	/* Elf64_Ehdr */
	.ascii "\177ELF"
	.byte 2, 1, 1, 0		/* 64 bit, little endian, version 1 */
	.quad 0
	.short 2, 62			/* ET_EXEC, EM_X86_64 */
	.long 1
	.quad BASE + (entry - vsp_helper)
	.quad phdr - vsp_helper
	.quad 0				/* no sections */
	.long 0
	.short 64, 56, 2		/* size of this header, of a phdr, number of phdrs */
	.short 0, 0, 0
phdr:	/* Elf64_Phdr: the whole file */
	.long PT_LOAD, PF_R_X
	.quad 0, BASE, BASE
	.quad vsp_helper_end - vsp_helper, vsp_helper_end - vsp_helper
	.quad 0x1000
	/* the stack is not executable */
	.long PT_GNU_STACK, PF_RW_
	.quad 0, 0, 0, 0, 0, 16

entry:	/* argc at 0(%rsp), argv[0] at 8, argv[1] at 16, ... */
	mov 16(%rsp), %rax
	mov 24(%rsp), %rdi
	cmpb $'u', (%rax)
	je unload

	xor %esi, %esi
	xor %edx, %edx
	mov $NR_open, %eax
	syscall
	test %eax, %eax
	js exit
	mov %eax, %edi
	mov 32(%rsp), %rsi
	xor %edx, %edx
	mov $NR_finit_module, %eax
	syscall
	jmp exit

unload:
	mov $O_NONBLOCK, %esi
	mov $NR_delete_module, %eax
	syscall

exit:
	neg %eax
	mov %eax, %edi
	/* A module's init may return an errno above 255. */
	cmp $255, %edi
	jbe 1f
	mov $255, %edi
1:	mov $NR_exit_group, %eax
	syscall
	ud2

	.globl vsp_helper_end
vsp_helper_end:

	.section .note.GNU-stack, "", @progbits
