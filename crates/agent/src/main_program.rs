//! The VM's main program. The agent keeps its output, and clients that follow it read it.

use crate::program::{Outcome, Program};
use crate::ring::Ring;
use hyperfork_api::frame::CHUNK;

/// A main program that was started, running or not.
#[derive(Debug)]
pub(crate) struct MainProgram {
    /// The program; its outputs belong to this type alone.
    pub(crate) program: Program,
    output: Ring,
    complete: bool,
}

impl MainProgram {
    /// Takes a program that was just started.
    pub(crate) fn new(program: Program) -> Self {
        Self {
            program,
            output: Ring::default(),
            complete: false,
        }
    }

    /// What it has written.
    pub(crate) fn output(&self) -> &Ring {
        &self.output
    }

    /// How it ended, once it has and all that it wrote is in [`Self::output`].
    pub(crate) fn final_status(&self) -> Option<i32> {
        self.program.status().filter(|_| self.complete)
    }

    /// Keeps what an output has to give now.
    pub(crate) fn keep_output(&mut self, index: usize, scratch: &mut [u8]) {
        if let (source, Outcome::Bytes(len)) = self.program.read(index, scratch) {
            self.output.push(source, &scratch[..len]);
        }
    }

    /// Keeps all that it has written by now, and returns how much that is.
    pub(crate) fn keep_all(&mut self) -> u64 {
        // It may write as fast as it is read.
        let enough = self.output.end() + Ring::CAPACITY as u64;
        let mut scratch = vec![0; CHUNK];
        let mut index = 0;
        while index < self.program.outputs().count() && self.output.end() < enough {
            match self.program.read(index, &mut scratch) {
                (source, Outcome::Bytes(len)) => self.output.push(source, &scratch[..len]),
                (_, Outcome::Nothing) => index += 1,
                (_, Outcome::End) => {}
            }
        }
        self.output.end()
    }

    /// Once it has ended: keeps what it left behind.
    pub(crate) fn settle(&mut self, scratch: &mut [u8]) {
        if self.program.status().is_some() && !self.complete {
            let output = &mut self.output;
            self.complete = self.program.read_last_words(scratch, |source, bytes| {
                output.push(source, bytes);
                true
            });
        }
    }
}
