use super::*;
use hyperfork_api::signal::{FORK_PORT, PORT};
use proptest::prelude::*;

const FORK_OFFSET: u64 = (FORK_PORT - PORT) as u64;

/// A machine's port, and what its owner hears.
struct Guest {
    fork: GuestFork,
    heard: Arc<Mutex<Vec<Message>>>,
}

impl Guest {
    fn new(index: u32, status: u32) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = heard.clone();
        let events: Events = Arc::new(move |event| match event {
            Event::Message(message) => sink.lock().unwrap().push(message),
            event => panic!("{event:?}"),
        });
        let fork = GuestFork::new(SignalPort::new(index, status, events));
        Self { fork, heard }
    }

    fn booted() -> Self {
        Self::new(0, ForkStatus::NONE.encode())
    }

    fn ask(&self, clones: u32, tag: u32) {
        let word = Message::Fork { clones, tag }.encode();
        self.fork.port().write(0, &word.to_le_bytes());
    }

    fn reads(&self) -> ForkStatus {
        let mut word = [0xff; 4];
        self.fork.port().read(FORK_OFFSET, &mut word);
        ForkStatus::decode(u32::from_le_bytes(word)).unwrap()
    }

    fn must_read(&self, answer: ForkAnswer, tag: u32) {
        assert_eq!(self.reads(), ForkStatus { answer, tag });
    }

    /// Clone `index` of what is captured now.
    fn clone(&self, index: u32) -> Self {
        Self::new(index, self.fork.capture())
    }

    fn heard(&self) -> Vec<Message> {
        std::mem::take(&mut *self.heard.lock().unwrap())
    }
}

#[test]
fn parent_and_clones_of_a_fork_learn_which_one_they_are_once_all_is_done() {
    let parent = Guest::booted();
    assert_eq!(parent.reads(), ForkStatus::NONE);
    parent.ask(2, 7);
    let (clones, tag) = (2, 7);
    assert_eq!(parent.heard(), [Message::Fork { clones, tag }]);
    parent.must_read(ForkAnswer::Pending, 7);
    parent.fork.begin();
    parent.must_read(ForkAnswer::Pending, 7);
    let status = parent.fork.capture();
    for index in [1, 2] {
        let clone = Guest::new(index, status);
        clone.must_read(ForkAnswer::Pending, 7);
        clone.fork.complete_in_clone();
        clone.must_read(ForkAnswer::Forked(index), 7);
    }
    parent.must_read(ForkAnswer::Pending, 7);
    parent.fork.complete();
    parent.must_read(ForkAnswer::Forked(0), 7);
}

#[test]
fn a_clone_that_became_a_parent_reads_so() {
    let first = Guest::booted();
    first.ask(1, 1);
    first.fork.begin();
    let clone = first.clone(1);
    clone.fork.complete_in_clone();
    clone.ask(3, 2);
    clone.fork.begin();
    let grandchild = clone.clone(3);
    clone.fork.complete();
    grandchild.fork.complete_in_clone();
    clone.must_read(ForkAnswer::Forked(0), 2);
    grandchild.must_read(ForkAnswer::Forked(3), 2);
}

#[test]
fn a_second_request_is_not_heard_while_one_is_under_way() {
    let guest = Guest::booted();
    let steps: [&dyn Fn(&Guest); 3] = [&|_| {}, &|guest| guest.fork.begin(), &|guest| {
        guest.fork.capture();
    }];
    guest.ask(1, 1);
    assert_eq!(guest.heard().len(), 1);
    for step in steps {
        step(&guest);
        guest.ask(9, 2);
        assert_eq!(guest.heard(), []);
        guest.must_read(ForkAnswer::Pending, 1);
    }
    guest.fork.complete();
    guest.ask(9, 2);
    assert_eq!(guest.heard().len(), 1);
    guest.must_read(ForkAnswer::Pending, 2);
}

#[test]
fn a_refusal_is_read_and_the_next_request_heard() {
    let guest = Guest::booted();
    for why in [Refusal::Spent, Refusal::Failed] {
        guest.ask(1, 5);
        guest.fork.begin();
        guest.fork.refuse(why);
        guest.must_read(ForkAnswer::Refused(why), 5);
        assert_eq!(guest.heard().len(), 1);
    }
}

#[test]
fn a_fork_from_outside_leaves_the_request_with_the_parent() {
    let interrupted = ForkAnswer::Refused(Refusal::Interrupted);
    let parent = Guest::booted();
    parent.ask(1, 3);
    // Before the owner begins with it, and while its own clones are coming to life.
    parent.clone(1).must_read(interrupted, 3);
    parent.must_read(ForkAnswer::Pending, 3);
    parent.fork.begin();
    parent.clone(1).must_read(ForkAnswer::Pending, 3);
    parent.clone(1).must_read(interrupted, 3);
    parent.must_read(ForkAnswer::Pending, 3);
    // A fork of a clone that does not have its identity yet.
    let clone = Guest::new(
        1,
        ForkStatus {
            answer: ForkAnswer::Pending,
            tag: 3,
        }
        .encode(),
    );
    clone.clone(1).must_read(interrupted, 3);
}

#[test]
fn an_answer_that_was_not_read_yet_is_there_in_clones_too() {
    let parent = Guest::booted();
    parent.ask(1, 3);
    parent.fork.begin();
    parent.fork.capture();
    parent.fork.complete();
    let clone = parent.clone(1);
    clone.fork.complete_in_clone();
    clone.must_read(ForkAnswer::Forked(0), 3);
}

#[test]
fn a_guest_that_has_not_asked_is_told_no_number() {
    let clone = Guest::new(4, ForkStatus::NONE.encode());
    clone.fork.complete_in_clone();
    clone.fork.complete();
    assert_eq!(clone.reads(), ForkStatus::NONE);
    clone.ask(1, 1);
    clone.fork.complete_in_clone();
    clone.must_read(ForkAnswer::Pending, 1);
}

#[test]
fn only_whole_words_are_messages() {
    let guest = Guest::booted();
    let fork = Message::Fork { clones: 8, tag: 0 };
    let port = || guest.fork.port();
    port().write(0, &[1]);
    port().write(2, &[1, 0, 0, 0]);
    port().write(FORK_OFFSET, &fork.encode().to_le_bytes());
    port().write(0, &[0xff; 4]);
    assert_eq!(guest.heard(), []);
    port().write(0, &fork.encode().to_le_bytes());
    assert_eq!(guest.heard(), [fork]);
}

#[test]
fn any_read_gives_bytes_of_the_registers() {
    let guest = Guest::new(0x0102, ForkStatus::NONE.encode());
    guest.ask(1, 0xabc);
    let mut data = [0xff; 10];
    guest.fork.port().read(0, &mut data);
    assert_eq!(data, [2, 1, 0, 0, 1, 0, 0xc0, 0xab, 0, 0]);
    guest.fork.port().read(7, &mut data[..1]);
    assert_eq!(data[0], 0xab);
    guest.fork.port().read(u64::MAX >> 1, &mut data[..4]);
    assert_eq!(data[..4], [0; 4]);
}

#[test]
fn a_status_that_means_nothing_is_none() {
    assert_eq!(Guest::new(1, 0xffff_ffff).reads(), ForkStatus::NONE);
}

/// What can happen to a port.
#[derive(Debug, Clone)]
enum Step {
    Write(u64, Vec<u8>),
    Read(u64, usize),
    Begin,
    Capture,
    Answer,
}

fn step() -> impl Strategy<Value = Step> {
    let word = prop_oneof![
        any::<u32>(),
        (0..5u32, 0..3u32).prop_map(|(clones, tag)| Message::Fork { clones, tag }.encode()),
    ];
    prop_oneof![
        4 => (0..9u64, word, 0..=4usize)
            .prop_map(|(at, word, len)| Step::Write(at, word.to_le_bytes()[..len].to_vec())),
        4 => (Just(0u64), 0..5u32)
            .prop_map(|(at, clones)| Step::Write(at, Message::Fork { clones, tag: 1 }.encode().to_le_bytes().to_vec())),
        2 => (0..12u64, 0..9usize).prop_map(|(at, len)| Step::Read(at, len)),
        1 => Just(Step::Begin),
        1 => Just(Step::Capture),
        1 => Just(Step::Answer),
    ]
}

proptest! {
    #[test]
    fn a_guest_that_writes_anything_has_one_fork_under_way_at_most(
        steps in proptest::collection::vec(step(), 0..60)
    ) {
        let guest = Guest::booted();
        let mut open = 0;
        for step in steps {
            match step {
                Step::Write(at, data) => guest.fork.port().write(at, &data),
                Step::Read(at, len) => guest.fork.port().read(at, &mut vec![0; len]),
                Step::Begin => guest.fork.begin(),
                Step::Capture => {
                    guest.fork.capture();
                }
                Step::Answer if open > 0 => {
                    guest.fork.complete();
                    open -= 1;
                }
                Step::Answer => {}
            }
            let asked = guest.heard().into_iter().filter(|it| matches!(it, Message::Fork { .. }));
            open += asked.count();
            prop_assert!(open <= 1);
            let pending = guest.reads().answer == ForkAnswer::Pending;
            prop_assert_eq!(pending, open == 1);
        }
    }
}
