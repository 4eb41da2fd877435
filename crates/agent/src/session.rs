//! One conversation with the host.
//!
//! ```text
//!                 ┌─ reply ──────────────▶ Closing ── flushed ──▶ over
//!   Request ──────┼─ exec ───▶ Program ── ended, output sent ──▶ Ended ──▶ over
//!                 ├─ follow ─▶ Following ── main ended ──▶ Closing
//!                 └─ copy ───▶ over (a thread has the connection)
//! ```
//!
//! Losing the connection ends a conversation in every state but `Program`: a
//! program runs on with its input ended and its output read and discarded, so
//! that no signal kills it. Every connection of a clone is lost in this way at
//! the fork, and the programs in it must never notice. A host that wants its
//! program dead sends a signal first.

use crate::connection::{Connection, Lost};
use crate::copy;
use crate::guest::{Answer, Guest};
use crate::log;
use crate::program::{Outcome, Program, Source};
use hyperfork_api::frame::CHUNK;
use hyperfork_api::guest::{Reply, Request, Stream};
use rustix::event::PollFlags;
use rustix::process::{Pid, WaitStatus};
use std::mem;
use std::os::fd::{AsFd, BorrowedFd};

/// One of a session's descriptors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The connection.
    Connection,
    /// Its program's standard input.
    Input,
    /// One of its program's outputs, by index.
    Output(usize),
}

/// A conversation, or what is left of it.
#[derive(Debug)]
pub(crate) struct Session {
    connection: Option<Connection>,
    work: Work,
}

#[derive(Debug)]
enum Work {
    /// Waits for the request.
    Request,
    /// Carries a program's streams.
    Program(Program),
    /// Its program has ended, and the host has the status; processes that it left in
    /// the background may still write.
    Ended(Program),
    /// Sends the main program's output from this offset on.
    Following(u64),
    /// Sends what is in the buffer.
    Closing,
}

impl Session {
    /// A conversation that has just begun.
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            connection: Some(connection),
            work: Work::Request,
        }
    }

    /// Whether it is over.
    pub(crate) fn is_over(&self) -> bool {
        let draining = match &self.work {
            Work::Program(program) | Work::Ended(program) => program.outputs().next().is_some(),
            _ => false,
        };
        self.connection.is_none() && !draining
    }

    /// Whether it has a program that runs.
    pub(crate) fn has_running_program(&self) -> bool {
        matches!(&self.work, Work::Program(program) if program.status().is_none())
    }

    /// Drops the connection if it was addressed to another machine than `cid`.
    pub(crate) fn belong_to(&mut self, cid: u32) {
        if self.connection.as_ref().is_some_and(|it| it.cid() != cid) {
            self.disconnect();
        }
    }

    /// Records the end of its program, if it is this one.
    pub(crate) fn child_ended(&mut self, pid: Pid, status: WaitStatus) {
        if let Work::Program(program) = &mut self.work
            && program.pid() == pid
            && program.status().is_none()
        {
            program.ended(status);
        }
    }

    /// Reports what it waits for. Whatever it may not take more of is left out:
    /// that is all there is to backpressure.
    pub(crate) fn interests<'a>(
        &'a self,
        mut wait_for: impl FnMut(Part, BorrowedFd<'a>, PollFlags),
    ) {
        let mut listens = matches!(self.work, Work::Request | Work::Following(_));
        match &self.work {
            Work::Program(program) => {
                listens = !program.input_is_full();
                if let Some(input) = program.waiting_input() {
                    wait_for(Part::Input, input, PollFlags::OUT);
                }
                if self.has_room() {
                    wait_for_outputs(program, &mut wait_for);
                }
            }
            Work::Ended(program) => wait_for_outputs(program, &mut wait_for),
            Work::Request | Work::Following(_) | Work::Closing => {}
        }
        if let Some(connection) = &self.connection {
            let mut events = PollFlags::empty();
            events.set(PollFlags::IN, listens);
            events.set(PollFlags::OUT, connection.has_unsent());
            wait_for(Part::Connection, connection.as_fd(), events);
        }
    }

    /// One of its descriptors is ready.
    pub(crate) fn on_ready(&mut self, part: Part, events: PollFlags, scratch: &mut [u8]) {
        match (part, &mut self.work) {
            (Part::Connection, _) => self.on_connection(events, scratch),
            (Part::Input, Work::Program(program)) => program.pass_input_on(),
            (Part::Output(index), Work::Program(program)) => {
                let (source, outcome) = program.read(index, &mut scratch[..CHUNK]);
                if let (Outcome::Bytes(len), Some(connection)) = (outcome, &mut self.connection) {
                    let result = connection.push(&output(source, &scratch[..len]));
                    self.check(result);
                }
            }
            (Part::Output(index), Work::Ended(program)) => {
                program.read(index, scratch);
            }
            _ => {}
        }
    }

    fn on_connection(&mut self, events: PollFlags, scratch: &mut [u8]) {
        let Some(connection) = &mut self.connection else {
            return;
        };
        if events.intersects(PollFlags::OUT) {
            connection.unblock();
        }
        let result = if events.intersects(PollFlags::IN) {
            connection.receive(scratch)
        } else if events.intersects(PollFlags::ERR | PollFlags::HUP) {
            Err(Lost::Closed)
        } else {
            Ok(())
        };
        self.check(result);
    }

    /// Does all that is possible without waiting: reads messages, answers, and
    /// sends.
    pub(crate) fn settle(&mut self, guest: &mut Guest, scratch: &mut [u8]) {
        let result = self.read_messages(guest);
        self.check(result);
        loop {
            let result = self.produce(guest, scratch);
            self.check(result);
            let was_full = !self.has_room();
            let result = self.send();
            self.check(result);
            // Where all that filled the buffer could be sent, nothing would wake
            // us to produce the rest.
            if !was_full || !self.has_room() {
                break;
            }
        }
    }

    /// Whether more output may be produced; without a connection, more may be
    /// discarded.
    fn has_room(&self) -> bool {
        self.connection.as_ref().is_none_or(Connection::has_room)
    }

    fn read_messages(&mut self, guest: &mut Guest) -> Result<(), Lost> {
        if matches!(self.work, Work::Request) {
            self.read_request(guest)?;
        }
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        match &mut self.work {
            Work::Program(program) => {
                while !program.input_is_full()
                    && let Some(message) = connection.next::<Stream>()?
                {
                    obey(program, &message);
                }
            }
            // There is nothing to say to them.
            Work::Following(_) => while connection.next::<Stream>()?.is_some() {},
            Work::Request | Work::Ended(_) | Work::Closing => {}
        }
        Ok(())
    }

    fn read_request(&mut self, guest: &mut Guest) -> Result<(), Lost> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        let Some(request) = connection.next::<Request>()? else {
            return Ok(());
        };
        match guest.answer(request, connection.cid()) {
            Ok(Answer::Reply(reply)) => {
                self.work = Work::Closing;
                connection.push(&reply)
            }
            Ok(Answer::Run(program)) => {
                self.work = Work::Program(program);
                connection.push(&Reply::Streaming)
            }
            Ok(Answer::Follow(offset)) => {
                self.work = Work::Following(offset);
                connection.push(&Reply::Streaming)
            }
            Ok(Answer::Copy(copy, ticket)) => {
                self.work = Work::Closing;
                if let Some(connection) = self.connection.take() {
                    copy::start(copy, connection, ticket);
                }
                Ok(())
            }
            Err(failure) => {
                self.work = Work::Closing;
                connection.push(&Reply::Failed(failure))
            }
        }
    }

    /// Sends all messages except a program's output.
    fn produce(&mut self, guest: &Guest, scratch: &mut [u8]) -> Result<(), Lost> {
        let Some(connection) = &mut self.connection else {
            return Ok(());
        };
        self.work = match mem::replace(&mut self.work, Work::Closing) {
            Work::Program(mut program) => {
                if say_the_end(&mut program, connection, scratch)? {
                    Work::Ended(program)
                } else {
                    Work::Program(program)
                }
            }
            Work::Following(mut offset) => {
                if follow(guest, &mut offset, connection)? {
                    Work::Closing
                } else {
                    Work::Following(offset)
                }
            }
            other => other,
        };
        Ok(())
    }

    /// Sends, and closes the connection once all is sent.
    fn send(&mut self) -> Result<(), Lost> {
        if let Some(connection) = &mut self.connection {
            connection.flush()?;
            let all_said = matches!(self.work, Work::Closing | Work::Ended(_));
            if all_said && !connection.has_unsent() {
                self.connection = None;
            }
        }
        Ok(())
    }

    fn check(&mut self, result: Result<(), Lost>) {
        if let Err(lost) = result {
            if let Lost::Protocol(error) = &lost {
                log::error(format_args!("{lost}: {error}"));
            }
            self.disconnect();
        }
    }

    /// Drops the connection.
    pub(crate) fn disconnect(&mut self) {
        self.connection = None;
        if let Work::Program(program) = &mut self.work {
            program.abandon_input();
        }
    }
}

fn wait_for_outputs<'a>(
    program: &'a Program,
    wait_for: &mut impl FnMut(Part, BorrowedFd<'a>, PollFlags),
) {
    for (index, output) in program.outputs().enumerate() {
        wait_for(Part::Output(index), output, PollFlags::IN);
    }
}

fn output(source: Source, bytes: &[u8]) -> Stream {
    match source {
        Source::Stdout => Stream::Stdout(bytes.to_vec()),
        Source::Stderr => Stream::Stderr(bytes.to_vec()),
    }
}

/// A message from the host to a program.
fn obey(program: &mut Program, message: &Stream) {
    let result = match message {
        Stream::Stdin(bytes) => {
            program.input(bytes);
            Ok(())
        }
        Stream::StdinEnd => {
            program.end_input();
            Ok(())
        }
        Stream::Resize(size) => program.resize(*size),
        Stream::Signal(signal) => program.signal(*signal),
        // These only go the other way.
        Stream::Stdout(_)
        | Stream::Stderr(_)
        | Stream::Exited(_)
        | Stream::Data(_)
        | Stream::DataEnd
        | Stream::Failed(_)
        | Stream::Skipped(_) => Ok(()),
    };
    if let Err(error) = result {
        log::error(format_args!(
            "a program could not be told {message:?}: {error}"
        ));
    }
}

/// If the program has ended: sends its last output and its status. True once all
/// is sent.
fn say_the_end(
    program: &mut Program,
    connection: &mut Connection,
    scratch: &mut [u8],
) -> Result<bool, Lost> {
    let Some(status) = program.status().filter(|_| connection.has_room()) else {
        return Ok(false);
    };
    let mut result = Ok(());
    let complete = program.read_last_words(&mut scratch[..CHUNK], |source, bytes| {
        result = connection.push(&output(source, bytes));
        result.is_ok() && connection.has_room()
    });
    result?;
    if complete {
        connection.push(&Stream::Exited(status))?;
    }
    Ok(complete)
}

/// What the main program has written since. True once it has ended and all is
/// sent.
fn follow(guest: &Guest, offset: &mut u64, connection: &mut Connection) -> Result<bool, Lost> {
    let Some(main) = guest.main() else {
        return Ok(false);
    };
    while connection.has_room() && *offset < main.output().end() {
        let part = main.output().read(*offset, CHUNK);
        if part.skipped > 0 {
            connection.push(&Stream::Skipped(part.skipped))?;
        }
        connection.push(&output(part.source, &part.bytes))?;
        *offset += part.skipped + part.bytes.len() as u64;
    }
    match main.final_status() {
        Some(status) if *offset >= main.output().end() => {
            connection.push(&Stream::Exited(status))?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
