/* SPDX-License-Identifier: MIT */

/*
 * The guest code of guest.h for arm64. The same code runs at EL0 and EL1: it uses no stack, no
 * exceptions and no system registers.
 *
 * x19  struct guest_control of this vCPU, set by the host at boot
 * x20  address of the doorbell, not backed by memory: a store there exits to the host
 * x1   index of the page in the share
 * x2   address of the page
 * x3   address of its entry in the generation table
 * x4   generation: the expected one, then the next one
 * x5   number of this vCPU
 *
 * Of a reader, moreover:
 * x12  index of the next page
 * x13  pages to read until the doorbell
 * x14  counts down the words of a page
 */

#include "guest.h"

	.section .rodata
	.balign	16
	.global	guest_code
	.hidden	guest_code
	.global	guest_code_end
	.hidden	guest_code_end

/* x6 = record_checksum(x2, x5, x4); x7 is clobbered. */
.macro checksum
	add	x6, x2, x5
	eor	x6, x6, x4
	ldr	x7, factor
	mul	x6, x6, x7
	eor	x6, x6, x6, lsr #32
.endm

guest_code:
pick_page:
	ldr	x8, [x19, #GUEST_PATTERN]
	cmp	x8, #GUEST_PATTERN_READ
	b.eq	read_share
	cbnz	x8, pick_at_random

	/* The next page; after the last, the first. */
	ldr	x1, [x19, #GUEST_NEXT_INDEX]
	add	x6, x1, #1
	ldr	x7, [x19, #GUEST_SHARE_PAGES]
	cmp	x6, x7
	csel	x6, x6, xzr, lo
	str	x6, [x19, #GUEST_NEXT_INDEX]
	b	find_page

pick_at_random:
	/* xorshift64 */
	ldr	x6, [x19, #GUEST_RANDOM]
	eor	x6, x6, x6, lsl #13
	eor	x6, x6, x6, lsr #7
	eor	x6, x6, x6, lsl #17
	str	x6, [x19, #GUEST_RANDOM]
	ldr	x1, [x19, #GUEST_SHARE_PAGES]
	cmp	x8, #GUEST_PATTERN_HOT
	b.ne	1f
	tst	x6, #7
	b.eq	1f
	ldr	x1, [x19, #GUEST_HOT_PAGES]
	/* The upper half of the number, scaled to 0 .. x1 - 1. */
1:	lsr	x6, x6, #32
	mul	x1, x1, x6
	lsr	x1, x1, #32

find_page:
	ldr	x6, [x19, #GUEST_PAGE_BYTES]
	ldr	x2, [x19, #GUEST_FIRST_ADDRESS]
	madd	x2, x1, x6, x2
	ldr	x6, [x19, #GUEST_GAP_AT]
	cmp	x2, x6
	b.lo	2f
	ldr	x6, [x19, #GUEST_GAP_BYTES]
	add	x2, x2, x6
2:	ldr	x3, [x19, #GUEST_TABLE_ADDRESS]
	add	x3, x3, x1, lsl #3
	ldr	x5, [x19, #GUEST_VCPU]
	ldr	x4, [x3]
	ldp	x9, x10, [x2, #RECORD_ADDRESS]
	ldp	x11, x12, [x2, #RECORD_GENERATION]
	cbz	x4, check_untouched

	/* Check that the page holds what this vCPU last wrote. */
	cmp	x9, x2
	b.ne	bad
	cmp	x10, x5
	b.ne	bad
	cmp	x11, x4
	b.ne	bad
	checksum
	cmp	x12, x6
	b.ne	bad
	b	write_record

check_untouched:
	orr	x9, x9, x10
	orr	x9, x9, x11
	orr	x9, x9, x12
	cbnz	x9, bad

write_record:
	add	x4, x4, #1
	checksum
	/*
	 * Store single registers: if a store faults into the host, its syndrome describes the whole
	 * access, which that of a pair does not.
	 */
	str	x2, [x2, #RECORD_ADDRESS]
	str	x5, [x2, #RECORD_WRITER]
	str	x4, [x2, #RECORD_GENERATION]
	str	x6, [x2, #RECORD_CHECKSUM]
	str	x4, [x3]
	ldr	x6, [x19, #GUEST_RECORDS]
	add	x6, x6, #1
	str	x6, [x19, #GUEST_RECORDS]
	ldr	x6, [x19, #GUEST_QUANTUM_LEFT]
	subs	x6, x6, #1
	str	x6, [x19, #GUEST_QUANTUM_LEFT]
	b.ne	pick_page

	ldr	x6, [x19, #GUEST_QUANTUM]
	str	x6, [x19, #GUEST_QUANTUM_LEFT]
	mov	w6, #GUEST_EVENT_QUANTUM
	dsb	sy
	str	w6, [x20]
	b	pick_page

bad:
	str	x2, [x19, #GUEST_BAD_ADDRESS]
	str	x4, [x19, #GUEST_BAD_EXPECTED]
	str	x11, [x19, #GUEST_BAD_FOUND]
3:	mov	w6, #GUEST_EVENT_DAMAGE
	dsb	sy
	str	w6, [x20]
	b	3b

read_share:
	ldr	x13, [x19, #GUEST_QUANTUM]
	ldr	x5, [x19, #GUEST_VCPU]
	mov	x12, #0
read_page:
	ldr	x6, [x19, #GUEST_PAGE_BYTES]
	ldr	x2, [x19, #GUEST_FIRST_ADDRESS]
	madd	x2, x12, x6, x2
	ldr	x7, [x19, #GUEST_GAP_AT]
	cmp	x2, x7
	b.lo	4f
	ldr	x7, [x19, #GUEST_GAP_BYTES]
	add	x2, x2, x7
4:	ldr	x3, [x19, #GUEST_TABLE_ADDRESS]
	ldr	x4, [x3, x12, lsl #3]
	lsr	x14, x6, #3
	ldp	x9, x10, [x2, #RECORD_ADDRESS]
	ldp	x11, x8, [x2, #RECORD_GENERATION]
	cmp	x9, x2
	b.ne	bad
	cmp	x10, x5
	b.ne	bad
	cmp	x11, x4
	b.ne	bad
	checksum
	cmp	x8, x6
	b.ne	bad
5:	sub	x14, x14, #1
	ldr	x6, [x2, x14, lsl #3]
	add	x9, x9, x6
	cbnz	x14, 5b
	add	x12, x12, #1
	ldr	x7, [x19, #GUEST_SHARE_PAGES]
	cmp	x12, x7
	csel	x12, x12, xzr, lo
	subs	x13, x13, #1
	b.ne	read_page
	mov	w6, #GUEST_EVENT_READ
	dsb	sy
	str	w6, [x20]
	/* The host may have made a writer of it. */
	ldr	x8, [x19, #GUEST_PATTERN]
	cmp	x8, #GUEST_PATTERN_READ
	b.ne	pick_page
	ldr	x13, [x19, #GUEST_QUANTUM]
	b	read_page

	.balign	8
factor:	.quad	RECORD_FACTOR
guest_code_end:

	.section .note.GNU-stack, "", %progbits
