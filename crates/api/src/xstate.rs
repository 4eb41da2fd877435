//! The port of the vector registers, for a guest's kernel whose instructions are emulated (PVM).
//!
//! The emulator has FXSAVE and FXRSTOR, but neither XSAVE nor XRSTOR. So such a kernel has the
//! monitor save and load the x87, SSE, AVX and AVX-512 registers of the vCPU that writes here.
//!
//! | register, 32 bits | written | read |
//! |---|---|---|
//! | [`SAVE_PORT`] | an area: the registers are written into it | the components that the port knows, as in XCR0; 0, or all ones, where there is no such port |
//! | [`LOAD_PORT`] | an area: the registers are read from it | 0 |
//!
//! An area is named by its guest-physical address, divided by [`AREA_ALIGNMENT`]. It has the
//! standard format of XSAVE, and reaches to the end of the last of the components. The format is that of
//! the processor (CPUID, leaf 0xd), which is also what programs in the guest see.
//!
//! - Saving writes all of the area, as XSAVE does with all components; their bits in the header
//!   (XSTATE_BV) are set for x87 and SSE, and for each other component that is not all zeroes.
//! - Loading is XRSTOR of all components. Bits of the header that have no meaning are ignored, and an
//!   MXCSR that the processor would refuse is taken for its initial value.
//! - An area that is not whole in the guest's memory is neither written nor read.

use crate::signal;

/// Saves the registers; in front of the signal port.
pub const SAVE_PORT: u16 = signal::PORT - PORT_LEN;

/// Loads the registers.
pub const LOAD_PORT: u16 = SAVE_PORT + 4;

/// How many ports there are, from [`SAVE_PORT`] on.
pub const PORT_LEN: u16 = 8;

/// Of areas, bytes.
pub const AREA_ALIGNMENT: u64 = 64;
