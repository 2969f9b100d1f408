/* table.S - system calls that criu has to tell apart. Each label names what is to come of the `syscall` behind it. */
	.text
	.macro	function name
	.globl	\name
	.p2align 4
\name:	.cfi_startproc
	.endm
	.macro	end
	ret
	.cfi_endproc
	.endm

	.fill	2048, 1, 0x90		/* for the second opinion, which begins before */

	function plain			/* found: 202 */
	mov	$202, %eax
	mov	%rdx, %r10
	xor	%edx, %edx
	syscall
	end

	function by_register		/* found: 230 */
	mov	$230, %ecx
	mov	%rdi, %rdx
	mov	$1, %esi
	mov	%ecx, %eax
	syscall
	end

	function by_caller		/* found: any */
	mov	%rdi, %rax
	mov	%rsi, %rdi
	mov	%rcx, %r10
	syscall
	end

	function other_call		/* not found: getpid */
	mov	$39, %eax
	mov	%rdi, %rdx
	syscall
	end

	function without_time		/* not found: FUTEX_WAKE */
	mov	$202, %eax
	mov	$1, %esi
	xor	%r10d, %r10d
	syscall
	end

	function other_operation	/* not found: FUTEX_WAKE, by way of another register; musl calls twice */
	mov	$1, %edx
	mov	$202, %r8d
	mov	%r8, %rax
	mov	%rdx, %rsi
	syscall
	cmp	$-38, %rax
	jne	1f
	mov	%r8, %rax
	syscall
1:	end

	function operation_by_jump	/* found: 202, as the operation may be another one */
	mov	%rdx, %r10
	mov	$137, %esi
	test	%edi, %edi
	jz	1f
	mov	$1, %esi
1:	mov	$202, %eax
	nop
	syscall
	end

	function operation_changed	/* found: 202 */
	mov	$1, %esi
	or	$9, %esi
	mov	$202, %eax
	syscall
	end

	function read_again		/* found: 202, made in the stub */
	mov	%rdx, %r10
	mov	%rdi, %r9
1:	mov	$202, %eax
	mov	%r9, %rdi
	syscall
	cmp	$-4, %eax
	je	1b
	mov	(%r10), %rax
	end

	function read_in_loop		/* found: 202, made in the stub: the next turn has r10 as it is */
	mov	%rdx, %r10
1:	mov	$202, %eax
	mov	$137, %esi
	syscall
	cmp	$-4, %eax
	je	1b
	end

	function set_again		/* found: 202 */
	mov	$202, %eax
	mov	%rdx, %r10
	mov	$137, %esi
	syscall
	mov	%rsi, %r10
	mov	(%r10), %rax
	end

	function jumped_into		/* out of reach */
	test	%edi, %edi
	jz	1f
	mov	$137, %esi
1:	mov	$202, %eax
2:	nop
	syscall
	cmp	$-4, %eax
	je	2b
	end

	function jumped_into_from_afar	/* out of reach */
	mov	%rdx, %r10
	mov	$202, %eax
3:	nop
	syscall
	end

	function afar
	.fill	200, 1, 0x90
	jmp	3b
	end

	function landed_on		/* out of reach */
	mov	$202, %eax
	endbr64
	syscall
	end

	function too_short		/* out of reach: a jump is within the 5 bytes */
	mov	$202, %eax
	jmp	1f
1:	nop
	syscall
	end

	function within			/* not found: mov $202, %eax; syscall in the middle of a movabs */
	.byte	0x48, 0xb8, 0xb8, 0xca, 0, 0, 0, 0x0f, 0x05, 0
	end

	.globl	wrong_beginning		/* not found: the list of functions is wrong, as it is for __restore_rt */
	.byte	0x48, 0xb8		/* movabs */
wrong_beginning: .cfi_startproc
	.byte	0xb8, 0xca, 0, 0, 0, 0x0f, 0x05, 0x90
	end

	.globl	_start
_start:	hlt
	.section .rodata
	.fill	64, 1, 0x90
	.globl	in_data
in_data:				/* not found: it is beside the code, and would be any */
	mov	%rdi, %rax
	mov	%rsi, %rdi
	mov	%rcx, %r10
	syscall
	.globl	data_end
data_end:
	.fill	16, 1, 0x90

	.section .note.GNU-stack,"",@progbits
