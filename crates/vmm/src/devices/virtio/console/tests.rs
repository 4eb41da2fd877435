use super::*;
use crate::devices::virtio::hostile;
use crate::devices::virtio::testing::Driver;
use crate::sys::peer::stranger_at;
use proptest::prelude::*;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use tempfile::TempDir;

struct Terminal {
    driver: Driver,
    log: Log,
    dir: TempDir,
}

fn log() -> Log {
    Log::new(tempfile::tempfile().unwrap()).unwrap()
}

#[test]
fn another_user_is_not_attached_and_keeps_no_client_out() {
    let mut terminal = Terminal::new();
    let stranger = stranger_at(&terminal.socket());
    terminal.driver.lock().process_host_events();
    let client = terminal.attach();
    terminal.print(b"secret");
    assert_eq!(read_exact(&client, 6), b"secret");
    assert_eq!((&stranger).read(&mut [0]).unwrap(), 0);
}

impl Terminal {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let listener = UnixListener::bind(dir.path().join("console.sock")).unwrap();
        let log = log();
        let driver = Driver::start(Console::new(log.clone(), listener).unwrap());
        Self { driver, log, dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("console.sock")
    }

    fn attach(&self) -> UnixStream {
        let client = UnixStream::connect(self.socket()).unwrap();
        self.driver.lock().process_host_events();
        client
    }

    fn print(&mut self, text: &[u8]) {
        self.driver.request(TRANSMIT, &[text], &[]);
    }

    fn has_host_events(&self) -> bool {
        let transport = self.driver.lock();
        let events = transport.host_events().unwrap();
        let mut fds = [PollFd::from_borrowed_fd(events, PollFlags::IN)];
        poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .unwrap()
            > 0
    }
}

fn read_exact(mut client: &UnixStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    client.read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn what_the_guest_prints_goes_to_the_log_and_to_the_client_from_when_it_attached() {
    let mut terminal = Terminal::new();
    terminal.print(b"before ");
    let client = terminal.attach();
    terminal.print(b"after");
    assert_eq!(terminal.log.tail(), b"before after");
    assert_eq!(read_exact(&client, 5), b"after");
}

#[test]
fn what_the_client_types_fills_the_buffers_the_guest_has_given() {
    let mut terminal = Terminal::new();
    let first = terminal.driver.offer(RECEIVE, &[], &[4]);
    let second = terminal.driver.offer(RECEIVE, &[], &[64]);
    let mut client = terminal.attach();
    client.write_all(b"ls -l\n").unwrap();
    terminal.driver.lock().process_host_events();
    assert_eq!(terminal.driver.take_used(RECEIVE), Some((first.head, 4)));
    assert_eq!(terminal.driver.take_used(RECEIVE), Some((second.head, 2)));
    assert_eq!(terminal.driver.contents(&first)[0], b"ls -");
    assert_eq!(&terminal.driver.contents(&second)[0][..2], b"l\n");
}

#[test]
fn input_waits_for_a_guest_that_gives_no_buffers_without_keeping_the_thread_busy() {
    let mut terminal = Terminal::new();
    let mut client = terminal.attach();
    client.set_nonblocking(true).unwrap();
    let typed: Vec<u8> = (0..100_000u32).map(|number| number as u8).collect();
    let mut sent = 0;
    while let Ok(count) = client.write(&typed[sent..]) {
        sent += count;
        if sent == typed.len() {
            break;
        }
    }
    terminal.driver.lock().process_host_events();
    assert!(!terminal.has_host_events(), "there is no room for more");
    drop(client);
    assert!(
        !terminal.has_host_events(),
        "nor is there for the end of it"
    );

    let mut received: Vec<u8> = Vec::new();
    while received.len() < sent {
        let offered = terminal.driver.offer(RECEIVE, &[], &[1000]);
        terminal.driver.lock().process_queue(RECEIVE);
        if let Some((_, len)) = terminal.driver.take_used(RECEIVE) {
            received.extend(&terminal.driver.contents(&offered)[0][..len as usize]);
        }
        if terminal.has_host_events() {
            terminal.driver.lock().process_host_events();
        }
    }
    assert_eq!(received, typed[..sent]);
}

#[test]
fn a_client_that_does_not_read_is_detached_and_the_guest_prints_on() {
    let mut terminal = Terminal::new();
    let client = terminal.attach();
    for _ in 0..40 {
        terminal.print(&[b'x'; 60_000]);
    }
    terminal.print(b"end");
    assert!(terminal.log.tail().ends_with(b"end"));
    let mut all = Vec::new();
    (&client).read_to_end(&mut all).unwrap();
    assert!(all.len() < 40 * 60_000);
}

#[test]
fn a_slow_client_gets_everything_in_the_end() {
    let mut terminal = Terminal::new();
    let client = terminal.attach();
    for letter in b"abcdefgh" {
        terminal.print(&[*letter; 60_000]);
    }
    let mut all = Vec::new();
    while all.len() < 8 * 60_000 {
        all.extend(read_exact(&client, 10_000));
        if terminal.has_host_events() {
            terminal.driver.lock().process_host_events();
        }
    }
    let expected: Vec<u8> = b"abcdefgh"
        .iter()
        .flat_map(|letter| [*letter; 60_000])
        .collect();
    assert_eq!(all, expected);
}

#[test]
fn a_second_client_is_turned_away_until_the_first_has_left() {
    let mut terminal = Terminal::new();
    let first = terminal.attach();
    let second = terminal.attach();
    assert_eq!((&second).read(&mut [0; 1]).unwrap(), 0);
    drop(first);
    let third = terminal.attach();
    terminal.print(b"hello");
    assert_eq!(read_exact(&third, 5), b"hello");
}

#[test]
fn a_clone_has_its_own_log_and_no_client_and_the_parents_client_stays() {
    let mut terminal = Terminal::new();
    let mut client = terminal.attach();
    client.write_all(b"typed before the fork").unwrap();
    terminal.driver.lock().process_host_events();
    let state = terminal
        .driver
        .lock()
        .save(&mut BlobWriter::default())
        .unwrap();
    let clone_log = log();
    let socket = terminal.dir.path().join("clone.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let console = Console::restore(&ConsoleState, clone_log.clone(), listener).unwrap();
    let mut clone = terminal.driver.clone_into(console, &state);
    clone.lock().resume();
    terminal.driver.lock().resume();

    clone.request(TRANSMIT, &[b"child"], &[]);
    terminal.print(b"parent");
    assert_eq!(clone_log.tail(), b"child");
    assert_eq!(terminal.log.tail(), b"parent");
    assert_eq!(read_exact(&client, 6), b"parent");

    clone.offer(RECEIVE, &[], &[64]);
    clone.lock().process_queue(RECEIVE);
    assert_eq!(clone.take_used(RECEIVE), None, "no further input");
    let offered = terminal.driver.offer(RECEIVE, &[], &[64]);
    terminal.driver.lock().process_queue(RECEIVE);
    assert_eq!(terminal.driver.take_used(RECEIVE), Some((offered.head, 21)));

    let attached = UnixStream::connect(&socket).unwrap();
    clone.lock().process_host_events();
    clone.request(TRANSMIT, &[b"again"], &[]);
    assert_eq!(read_exact(&attached, 5), b"again");
}

proptest! {
    #[test]
    fn a_hostile_driver_gets_nowhere(
        script in prop::collection::vec(any::<u8>(), 0..2000),
        typed in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        let dir = TempDir::new().unwrap();
        let socket = dir.path().join("console.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let mut client = UnixStream::connect(&socket).unwrap();
        client.write_all(&typed).unwrap();
        hostile::drive(Box::new(Console::new(log(), listener).unwrap()), &script);
    }
}
