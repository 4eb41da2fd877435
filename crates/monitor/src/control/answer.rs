//! A request on its way to the owner, and the answer on its way back.

use super::send::send_now;
use hyperfork_api::control::{
    self, Ask, ExportDisk, Fork, Info, Pause, Request, Resume, Sample, Stop, Subscribe, WaitExit,
    WaitReady,
};
use hyperfork_api::{Code, Error};
use hyperfork_host::lines::line_of;
use hyperfork_sys::clock::Monotonic;
use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// A request, with the answer that it takes.
#[derive(Debug)]
pub(crate) enum Asked {
    Info(Answer<Info>),
    WaitReady(Answer<WaitReady>),
    WaitExit(Answer<WaitExit>),
    Pause(Answer<Pause>),
    Resume(Answer<Resume>),
    /// With the moment when it had been read.
    Fork(Fork, Monotonic, Answer<Fork>),
    ExportDisk(ExportDisk, Answer<ExportDisk>),
    Sample(Sample, Answer<Sample>),
    Stop(Stop, Answer<Stop>),
    /// With the connection, which is the owner's from then on.
    Subscribe(Subscribe, UnixStream, Answer<Subscribe>),
}

impl Asked {
    /// A request that came over a connection. Its answer goes to `lines` as a line; that of a
    /// subscription to the connection, so that it is there before the first event.
    pub(super) fn new(
        request: Request,
        arrival: Monotonic,
        connection: &UnixStream,
        lines: Sender<Vec<u8>>,
    ) -> std::io::Result<Self> {
        Ok(match request {
            Request::Info(_) => Self::Info(Answer::line(lines)),
            Request::WaitReady(_) => Self::WaitReady(Answer::line(lines)),
            Request::WaitExit(_) => Self::WaitExit(Answer::line(lines)),
            Request::Pause(_) => Self::Pause(Answer::line(lines)),
            Request::Resume(_) => Self::Resume(Answer::line(lines)),
            Request::Fork(fork) => Self::Fork(fork, arrival, Answer::line(lines)),
            Request::ExportDisk(export) => Self::ExportDisk(export, Answer::line(lines)),
            Request::Sample(sample) => Self::Sample(sample, Answer::line(lines)),
            Request::Stop(stop) => Self::Stop(stop, Answer::line(lines)),
            Request::Subscribe(subscribe) => {
                let (subscriber, answered) = (connection.try_clone()?, connection.try_clone()?);
                let answer = Answer::new(move |result| {
                    let line = line_of(&control::Answer::from(result));
                    let _ = send_now(&answered, &line);
                });
                Self::Subscribe(subscribe, subscriber, answer)
            }
        })
    }
}

/// The duty to answer a request, once: with a result of the type that the request has, or
/// with an error, also when it is dropped.
pub(crate) struct Answer<A: Ask>(Option<Box<Give<A>>>);

type Give<A> = dyn FnOnce(Result<<A as Ask>::Reply, Error>) + Send;

impl<A: Ask> Answer<A> {
    /// One that `give` passes on.
    pub(crate) fn new(give: impl FnOnce(Result<A::Reply, Error>) + Send + 'static) -> Self {
        Self(Some(Box::new(give)))
    }

    fn line(lines: Sender<Vec<u8>>) -> Self {
        Self::new(move |result| {
            // The client may be gone.
            let _ = lines.send(line_of(&control::Answer::from(result)));
        })
    }

    /// Answers.
    pub(crate) fn give(mut self, result: Result<A::Reply, Error>) {
        if let Some(give) = self.0.take() {
            give(result);
        }
    }
}

impl<A: Ask + 'static> Answer<A> {
    /// Has a thread find out what the answer is, or answers that there can be none.
    pub(crate) fn give_on_a_thread(
        self,
        name: &str,
        work: impl FnOnce() -> Result<A::Reply, Error> + Send + 'static,
    ) {
        let (sender, answer) = channel::<Self>();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            if let Ok(answer) = answer.recv() {
                answer.give(work());
            }
        });
        match thread {
            Ok(_) => drop(sender.send(self)),
            Err(error) => self.give(Err(no_thread(&error))),
        }
    }
}

/// Why something is not done that takes a thread.
pub(crate) fn no_thread(error: &std::io::Error) -> Error {
    Error::because(Code::Host, "cannot start a thread for it", error)
}

impl<A: Ask> Drop for Answer<A> {
    fn drop(&mut self) {
        if let Some(give) = self.0.take() {
            let words = "the VM ended before it could answer";
            give(Err(Error::new(Code::NotRunning, words)));
        }
    }
}

impl<A: Ask> fmt::Debug for Answer<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Answer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> (Answer<Pause>, std::sync::mpsc::Receiver<Result<(), Error>>) {
        let (sender, given) = channel();
        let answer = Answer::new(move |result| drop(sender.send(result)));
        (answer, given)
    }

    #[test]
    fn a_request_is_answered_once_also_when_its_answer_is_forgotten() {
        let (answer, given) = self::answer();
        answer.give(Ok(()));
        assert_eq!(given.iter().collect::<Vec<_>>(), [Ok(())]);

        let (answer, given) = self::answer();
        drop(answer);
        let given: Vec<_> = given.iter().collect();
        assert_eq!(given.len(), 1);
        assert_eq!(given[0].as_ref().unwrap_err().code, Code::NotRunning);

        let (answer, given) = self::answer();
        answer.give_on_a_thread("test", || Err(Error::new(Code::Limit, "no")));
        let given: Vec<_> = given.iter().collect();
        assert_eq!(given, [Err(Error::new(Code::Limit, "no"))]);
    }
}
