//! A request from a client to the owner, and the way back for its answer.

use super::outlet::Outlet;
use super::presence;
use hyperfork_api::control::{
    self, Ask, ExportDisk, Fork, Info, Pause, Request, Resume, Sample, Stop, Subscribe, WaitExit,
    WaitReady,
};
use hyperfork_api::{Code, Error};
use hyperfork_host::lines::line_of;
use hyperfork_sys::clock::Monotonic;
use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;

/// A request, with the responder that takes its answer.
#[derive(Debug)]
pub(crate) enum ControlRequest {
    Info(Responder<Info>),
    WaitReady(Responder<WaitReady>),
    WaitExit(Responder<WaitExit>),
    Pause(Responder<Pause>),
    Resume(Responder<Resume>),
    /// With the time at which it was read.
    Fork(Fork, Monotonic, Responder<Fork>),
    ExportDisk(ExportDisk, Responder<ExportDisk>),
    Sample(Sample, Responder<Sample>),
    Stop(Stop, Responder<Stop>),
    /// With the connection, which the owner keeps.
    Subscribe(Subscribe, UnixStream, Responder<Subscribe>),
}

impl ControlRequest {
    /// A request that came over a connection, whose answer goes to `outlet`. That to a subscription
    /// is ahead of the first event.
    pub(super) fn new(
        request: Request,
        arrival: Monotonic,
        connection: &Arc<UnixStream>,
        outlet: Outlet,
    ) -> std::io::Result<Self> {
        Ok(match request {
            Request::Info(_) => Self::Info(Responder::at(outlet)),
            Request::WaitReady(_) => Self::WaitReady(Responder::at(outlet)),
            Request::WaitExit(_) => Self::WaitExit(Responder::at(outlet)),
            Request::Pause(_) => Self::Pause(Responder::at(outlet)),
            Request::Resume(_) => Self::Resume(Responder::at(outlet)),
            Request::Fork(fork) => Self::Fork(
                fork,
                arrival,
                Responder::at(outlet).for_client_at(connection),
            ),
            Request::ExportDisk(export) => Self::ExportDisk(export, Responder::at(outlet)),
            Request::Sample(sample) => Self::Sample(sample, Responder::at(outlet)),
            Request::Stop(stop) => Self::Stop(stop, Responder::at(outlet)),
            Request::Subscribe(subscribe) => {
                Self::Subscribe(subscribe, connection.try_clone()?, Responder::at(outlet))
            }
        })
    }
}

/// Answers a request exactly once: with the reply that the request's type has, or with an
/// error. Dropping it answers with an error.
pub(crate) struct Responder<A: Ask> {
    give: Option<Box<Give<A>>>,
    /// The client's connection, where it matters whether the client is still there.
    client: Option<Arc<UnixStream>>,
}

type Give<A> = dyn FnOnce(Result<<A as Ask>::Reply, Error>) + Send;

impl<A: Ask> Responder<A> {
    /// A responder that passes the answer to `give`.
    pub(crate) fn new(give: impl FnOnce(Result<A::Reply, Error>) + Send + 'static) -> Self {
        Self {
            give: Some(Box::new(give)),
            client: None,
        }
    }

    fn for_client_at(mut self, connection: &Arc<UnixStream>) -> Self {
        self.client = Some(connection.clone());
        self
    }

    /// Whether the answer has a reader: the client has not closed its connection.
    pub(crate) fn is_awaited(&self) -> bool {
        let client = self.client.as_ref();
        client.is_none_or(|connection| !presence::is_gone(connection))
    }

    fn at(outlet: Outlet) -> Self {
        Self::new(move |result| outlet.send(&line_of(&control::Answer::from(result))))
    }

    /// Answers.
    pub(crate) fn respond(mut self, result: Result<A::Reply, Error>) {
        if let Some(give) = self.give.take() {
            give(result);
        }
    }
}

impl<A: Ask + 'static> Responder<A> {
    /// Does `work` on a thread of its own and answers with its result, or with an error if no
    /// thread can be started.
    pub(crate) fn respond_from_thread(
        self,
        name: &str,
        work: impl FnOnce() -> Result<A::Reply, Error> + Send + 'static,
    ) {
        let (sender, received) = channel::<Self>();
        let thread = thread::Builder::new().name(name.into()).spawn(move || {
            if let Ok(responder) = received.recv() {
                responder.respond(work());
            }
        });
        match thread {
            Ok(_) => drop(sender.send(self)),
            Err(error) => self.respond(Err(no_thread(&error))),
        }
    }
}

/// The error of a request for which no thread can be started.
pub(crate) fn no_thread(error: &std::io::Error) -> Error {
    Error::because(Code::Host, "cannot start a thread for it", error)
}

impl<A: Ask> Drop for Responder<A> {
    fn drop(&mut self) {
        if let Some(give) = self.give.take() {
            let message = "the VM ended before it could answer";
            give(Err(Error::new(Code::NotRunning, message)));
        }
    }
}

impl<A: Ask> fmt::Debug for Responder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Responder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn responder() -> (
        Responder<Pause>,
        std::sync::mpsc::Receiver<Result<(), Error>>,
    ) {
        let (sender, given) = channel();
        let responder = Responder::new(move |result| drop(sender.send(result)));
        (responder, given)
    }

    #[test]
    fn a_request_is_answered_once_also_when_its_answer_is_forgotten() {
        let (responder, given) = self::responder();
        responder.respond(Ok(()));
        assert_eq!(given.iter().collect::<Vec<_>>(), [Ok(())]);

        let (responder, given) = self::responder();
        drop(responder);
        let given: Vec<_> = given.iter().collect();
        assert_eq!(given.len(), 1);
        assert_eq!(given[0].as_ref().unwrap_err().code, Code::NotRunning);

        let (responder, given) = self::responder();
        responder.respond_from_thread("test", || Err(Error::new(Code::Limit, "no")));
        let given: Vec<_> = given.iter().collect();
        assert_eq!(given, [Err(Error::new(Code::Limit, "no"))]);
    }
}
