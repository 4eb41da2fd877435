// nano_hold(RDI: registers, RSI: turns) of modes/regs.rs. What it must remember
// while all registers are taken is in this CPU's nano_locals, at GS.

.set TURNS, 0
.set STACK, 8
.set REGISTERS, 16
.set SCRATCH, 24

.set KNOWN_FX, 0
.set KNOWN, 512
.set SEEN_FX, 640
.set SEEN, 640 + 512
.set SAVED_FX, 1280

.section .text.nano_hold, "ax"
.global nano_hold
nano_hold:
    .irp register, rbx, rbp, r12, r13, r14, r15
    push \register
    .endr
    fxsave64 [rdi + SAVED_FX]
    mov gs:[TURNS], rsi
    mov gs:[STACK], rsp
    mov gs:[REGISTERS], rdi

    fxrstor64 [rdi + KNOWN_FX]
    .set at, KNOWN
    .irp register, rax, rcx, rdx, rbx, rsp, rbp, rsi, -, r8, r9, r10, r11, r12, r13, r14, r15
    .ifnc \register, -
    mov \register, [rdi + at]
    .endif
    .set at, at + 8
    .endr
    mov rdi, [rdi + KNOWN + 7 * 8]

1:  pause
    dec qword ptr gs:[TURNS]
    jnz 1b

    mov gs:[SCRATCH], rax
    mov rax, gs:[REGISTERS]
    .set at, SEEN
    .irp register, -, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15
    .ifnc \register, -
    mov [rax + at], \register
    .endif
    .set at, at + 8
    .endr
    mov rcx, gs:[SCRATCH]
    mov [rax + SEEN], rcx
    mov rsp, gs:[STACK]
    fxsave64 [rax + SEEN_FX]
    fxrstor64 [rax + SAVED_FX]
    .irp register, r15, r14, r13, r12, rbp, rbx
    pop \register
    .endr
    ret
