//! The guest as a program: everything is in the library, except for what a
//! program without the standard library must have and a library cannot.
#![no_std]
#![no_main]

use core::arch::asm;
// For its entry point, `nano_start`.
use hyperfork_nano as _;

#[panic_handler]
fn on_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    hyperfork_nano::fail(format_args!("{info}"))
}

// Functions that the compiler calls implicitly. As instructions, for it would
// compile a loop into a call of the very function.

#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: the contract of memcpy.
    unsafe {
        asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _,
             options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the contract of memset.
    unsafe {
        asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8,
             options(nostack, preserves_flags));
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(a: *const u8, b: *const u8, len: usize) -> i32 {
    let differ: u8;
    // SAFETY: the contract of bcmp. The comparison of RAX sets ZF, in case there is
    // nothing else to compare.
    unsafe {
        asm!("cmp rax, rax", "repe cmpsb", "setne al", inout("rcx") len => _,
             inout("rsi") a => _, inout("rdi") b => _, out("al") differ,
             options(nostack, readonly));
    }
    differ.into()
}
