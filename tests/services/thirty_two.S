/* thirty_two.S - a program of 32 bits, which waits for a signal for ever. */
	.globl	_start
_start:	mov	$29, %eax		/* pause */
	int	$0x80
	jmp	_start
	.section .note.GNU-stack,"",@progbits
