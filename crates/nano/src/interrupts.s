// What interrupts CPL 3: as few instructions as possible, see start.s.

.set EOI, 0xfee000b0
.set TIMER_COUNT, 0xfee00380
.set HLT, 0xf4
.set HOLD_OFF, 1                // WAIT is 0
.set SIGNAL_PORT, 0x5f0
.set FAULT_STACK, 0x4000

// An interrupt does nothing but count itself. The timer is turned off as soon as it has
// come: of one that has expired and is still armed, a clone's KVM cannot tell whether it
// has come.
.macro counted name
.global nano_on_\name
nano_on_\name:
    push rax
    inc qword ptr [rip + nano_\name\()s]
    .ifc \name, timer
    mov eax, TIMER_COUNT
    mov dword ptr [rax], 0
    .endif
    mov eax, EOI
    mov dword ptr [rax], 0
    pop rax
    iretq
.endm

.section .text.nano_interrupts, "ax"

// But the doorbell also asks, before anything else, which clone this is: the monitor learns
// by that, from the clone's very first instructions, that the clone runs.
.global nano_on_doorbell
nano_on_doorbell:
    push rax
    push rdx
    mov edx, SIGNAL_PORT
    in eax, dx
    mov [rip + nano_index], eax
    inc qword ptr [rip + nano_doorbells]
    mov eax, EOI
    mov dword ptr [rax], 0
    pop rdx
    pop rax
    iretq

counted timer
counted ipi
counted fence

.global nano_on_spurious
nano_on_spurious:
    iretq

// Exceptions, 16 bytes each. All end in nano_fault, but for one.
.balign 16
.global nano_exceptions
nano_exceptions:
    .set vector, 0
    .rept 32
    .balign 16
    // Those which push an error code themselves (SDM vol. 3A, table 6-1).
    .if (1 << vector) & 0x60227d00 == 0
    push 0
    .endif
    push vector
    .if vector == 13
    jmp nano_general_protection
    .else
    jmp nano_fatal
    .endif
    .set vector, vector + 1
    .endr

// HLT at CPL 3 is a #GP. Here it is the system call, with what is wanted in EAX; all
// others are fatal.
nano_general_protection:
    push rax
    mov rax, [rsp + 24]
    cmp byte ptr [rax], HLT
    je 1f
    pop rax
    jmp nano_fatal
1:  cmp dword ptr [rsp], HOLD_OFF
    je 2f

    // WAIT, like a futex: halts until an interrupt, unless the word at RDI is not RSI
    // any more. Interrupts are off in here until HLT has begun, so that none can slip
    // through in between.
    cmp [rdi], rsi
    jne 4f
    sti
    hlt
    jmp 4f

    // HOLD_OFF keeps interrupts off (at CPL 3 of a PVM host they are always on): writes
    // ECX to the word at RDX, then R8D to the signal port, and waits until the word at
    // RDI has one of the bits of ESI. It does not wait if the doorbell has been rung more
    // than R9 times, for then it need not ring again.
2:  mov [rdx], ecx
    push rdx
    mov edx, SIGNAL_PORT
    mov eax, r8d
    out dx, eax
    pop rdx
    cmp r9, [rip + nano_doorbells]
    jne 4f
3:  pause
    test [rdi], esi
    jz 3b

    // Back, behind the instruction.
4:  pop rax
    inc qword ptr [rsp + 16]
    add rsp, 16
    iretq

// Goes on at CPL 3 in nano_fault(vector, error code, RIP, CR2).
nano_fatal:
    pop rdi
    pop rsi
    mov rdx, [rsp]
    mov rcx, cr2
    lea rax, [rip + nano_fault]
    mov [rsp], rax
    mov qword ptr [rsp + 8], USER_CODE
    mov qword ptr [rsp + 16], USER_RFLAGS
    mov qword ptr [rsp + 32], USER_DATA
    lea rax, [rip + nano_fault_stack + FAULT_STACK - 8]
    mov [rsp + 24], rax
    iretq

.section .bss.nano_interrupts, "aw", @nobits
.balign 16
nano_fault_stack:
    .skip FAULT_STACK
.global nano_index, nano_doorbells, nano_timers, nano_ipis, nano_fences
nano_index:     .skip 8
nano_doorbells: .skip 8
nano_timers:    .skip 8
nano_ipis:      .skip 8
nano_fences:    .skip 8
