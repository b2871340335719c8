/* SPDX-License-Identifier: MIT */

/*
 * The guest code of guest.h for x86-64 in long mode. The same code runs in user and kernel mode: it
 * uses no stack, no interrupts, and no privileged instruction but the doorbell's OUT, which IOPL 3
 * allows.
 *
 * rbx  struct guest_control of this vCPU, set by the host at boot
 * rcx  index of the page in the share
 * rsi  address of the page
 * rdi  address of its entry in the generation table
 * r8   generation: the expected one, then the next one
 * r9   number of this vCPU
 *
 * Of a reader, moreover:
 * r10  index of the next page
 * r11  pages to read until the doorbell
 * r12  counts down the words of a page
 */

#include "guest.h"

	.section .rodata
	.balign	16
	.global	guest_code
	.hidden	guest_code
	.global	guest_code_end
	.hidden	guest_code_end

/* rax = record_checksum(rsi, r9, r8); rdx is clobbered. */
.macro checksum
	mov	%rsi, %rax
	add	%r9, %rax
	xor	%r8, %rax
	movabs	$RECORD_FACTOR, %rdx
	imul	%rdx, %rax
	mov	%rax, %rdx
	shr	$32, %rdx
	xor	%rdx, %rax
.endm

guest_code:
pick_page:
	mov	GUEST_PATTERN(%rbx), %rax
	cmp	$GUEST_PATTERN_READ, %rax
	je	read_share
	test	%rax, %rax
	jnz	pick_at_random

	/* The next page; after the last, the first. */
	mov	GUEST_NEXT_INDEX(%rbx), %rcx
	lea	1(%rcx), %rax
	cmp	GUEST_SHARE_PAGES(%rbx), %rax
	jb	1f
	xor	%eax, %eax
1:	mov	%rax, GUEST_NEXT_INDEX(%rbx)
	jmp	find_page

pick_at_random:
	/* xorshift64 */
	mov	GUEST_RANDOM(%rbx), %rdx
	mov	%rdx, %rcx
	shl	$13, %rcx
	xor	%rcx, %rdx
	mov	%rdx, %rcx
	shr	$7, %rcx
	xor	%rcx, %rdx
	mov	%rdx, %rcx
	shl	$17, %rcx
	xor	%rcx, %rdx
	mov	%rdx, GUEST_RANDOM(%rbx)
	mov	GUEST_SHARE_PAGES(%rbx), %rcx
	cmp	$GUEST_PATTERN_HOT, %rax
	jne	2f
	test	$7, %dl
	jz	2f
	mov	GUEST_HOT_PAGES(%rbx), %rcx
	/* The upper half of the number, scaled to 0 .. rcx - 1. */
2:	shr	$32, %rdx
	imul	%rdx, %rcx
	shr	$32, %rcx

find_page:
	mov	%rcx, %rsi
	imul	GUEST_PAGE_BYTES(%rbx), %rsi
	add	GUEST_FIRST_ADDRESS(%rbx), %rsi
	cmp	GUEST_GAP_AT(%rbx), %rsi
	jb	3f
	add	GUEST_GAP_BYTES(%rbx), %rsi
3:	mov	GUEST_TABLE_ADDRESS(%rbx), %rdi
	lea	(%rdi,%rcx,8), %rdi
	mov	GUEST_VCPU(%rbx), %r9
	mov	(%rdi), %r8
	test	%r8, %r8
	jz	check_untouched

	/* Check that the page holds what this vCPU last wrote. */
	cmp	%rsi, RECORD_ADDRESS(%rsi)
	jne	bad
	cmp	%r9, RECORD_WRITER(%rsi)
	jne	bad
	cmp	%r8, RECORD_GENERATION(%rsi)
	jne	bad
	checksum
	cmp	%rax, RECORD_CHECKSUM(%rsi)
	jne	bad
	jmp	write_record

check_untouched:
	mov	RECORD_ADDRESS(%rsi), %rax
	or	RECORD_WRITER(%rsi), %rax
	or	RECORD_GENERATION(%rsi), %rax
	or	RECORD_CHECKSUM(%rsi), %rax
	jnz	bad

write_record:
	add	$1, %r8
	checksum
	mov	%rsi, RECORD_ADDRESS(%rsi)
	mov	%r9, RECORD_WRITER(%rsi)
	mov	%r8, RECORD_GENERATION(%rsi)
	mov	%rax, RECORD_CHECKSUM(%rsi)
	mov	%r8, (%rdi)
	addq	$1, GUEST_RECORDS(%rbx)
	subq	$1, GUEST_QUANTUM_LEFT(%rbx)
	jnz	pick_page

	mov	GUEST_QUANTUM(%rbx), %rax
	mov	%rax, GUEST_QUANTUM_LEFT(%rbx)
	mov	$GUEST_EVENT_QUANTUM, %eax
	out	%eax, $GUEST_DOORBELL_PORT
	jmp	pick_page

bad:
	mov	%rsi, GUEST_BAD_ADDRESS(%rbx)
	mov	%r8, GUEST_BAD_EXPECTED(%rbx)
	mov	RECORD_GENERATION(%rsi), %rax
	mov	%rax, GUEST_BAD_FOUND(%rbx)
4:	mov	$GUEST_EVENT_DAMAGE, %eax
	out	%eax, $GUEST_DOORBELL_PORT
	jmp	4b

read_share:
	mov	GUEST_QUANTUM(%rbx), %r11
	mov	GUEST_VCPU(%rbx), %r9
	xor	%r10d, %r10d
read_page:
	mov	%r10, %rsi
	imul	GUEST_PAGE_BYTES(%rbx), %rsi
	add	GUEST_FIRST_ADDRESS(%rbx), %rsi
	cmp	GUEST_GAP_AT(%rbx), %rsi
	jb	5f
	add	GUEST_GAP_BYTES(%rbx), %rsi
5:	mov	GUEST_TABLE_ADDRESS(%rbx), %rdi
	mov	(%rdi,%r10,8), %r8
	cmp	%rsi, RECORD_ADDRESS(%rsi)
	jne	bad
	cmp	%r9, RECORD_WRITER(%rsi)
	jne	bad
	cmp	%r8, RECORD_GENERATION(%rsi)
	jne	bad
	checksum
	cmp	%rax, RECORD_CHECKSUM(%rsi)
	jne	bad
	mov	GUEST_PAGE_BYTES(%rbx), %r12
	shr	$3, %r12
6:	add	-8(%rsi,%r12,8), %rax
	sub	$1, %r12
	jnz	6b
	add	$1, %r10
	cmp	GUEST_SHARE_PAGES(%rbx), %r10
	jb	7f
	xor	%r10d, %r10d
7:	sub	$1, %r11
	jnz	read_page
	mov	$GUEST_EVENT_READ, %eax
	out	%eax, $GUEST_DOORBELL_PORT
	/* The host may have made a writer of it. */
	cmpq	$GUEST_PATTERN_READ, GUEST_PATTERN(%rbx)
	jne	pick_page
	mov	GUEST_QUANTUM(%rbx), %r11
	jmp	read_page
guest_code_end:

	.section .note.GNU-stack, "", @progbits
