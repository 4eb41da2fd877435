//! Flow control of one connection (5.10.6.3), as pure arithmetic.
//!
//! Either side tells how large its receive buffer is (`buf_alloc`) and how many
//! bytes it has taken out of it since the connection began (`fwd_cnt`, modulo
//! 2³²). Whatever was sent and not yet taken out must fit in the buffer.

/// Our receive buffer for each connection, in bytes: Linux's own default, four
/// of its largest packets.
pub(super) const BUFFER: u32 = 256 << 10;

/// What we may send to the guest.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    sent: u32,
    peer_buffer: u32,
    peer_taken: u32,
}

impl Outgoing {
    /// Updates the credit from the guest's latest packet.
    pub(super) fn update(&mut self, buf_alloc: u32, fwd_cnt: u32) {
        self.peer_buffer = buf_alloc;
        self.peer_taken = fwd_cnt;
    }

    /// How many bytes may be sent now. A guest whose counters make no sense gets
    /// nothing.
    pub(super) fn available(&self) -> usize {
        let in_flight = self.sent.wrapping_sub(self.peer_taken);
        self.peer_buffer.saturating_sub(in_flight) as usize
    }

    /// Counts `len` bytes sent; the caller keeps within [`available`](Self::available).
    pub(super) fn spend(&mut self, len: usize) {
        self.sent = self.sent.wrapping_add(len as u32);
    }
}

/// What the guest may send to us.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    received: u32,
    taken: u32,
    /// The value of `taken` that the guest knows.
    told: u32,
}

impl Incoming {
    /// Counts `len` bytes received; false when the guest had no credit for them.
    #[must_use]
    pub(super) fn receive(&mut self, len: u32) -> bool {
        let held = self.received.wrapping_sub(self.taken);
        let fits = len <= BUFFER.saturating_sub(held);
        if fits {
            self.received = self.received.wrapping_add(len);
        }
        fits
    }

    /// Counts `len` bytes passed on to the host, or thrown away.
    pub(super) fn take(&mut self, len: usize) {
        self.taken = self.taken.wrapping_add(len as u32);
    }

    /// Whether to send the guest a credit update now: when the credit it knows of is less than half
    /// of what it has. So there is at most one update for two large packets, and the guest never
    /// stops for lack of an update.
    pub(super) fn is_due(&self) -> bool {
        self.taken.wrapping_sub(self.told) >= BUFFER / 2
    }

    /// The `fwd_cnt` to write into a packet; the guest knows it from now on.
    pub(super) fn tell(&mut self) -> u32 {
        self.told = self.taken;
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_may_be_sent_before_the_guest_says_so() {
        assert_eq!(Outgoing::default().available(), 0);
    }

    #[test]
    fn a_guest_that_claims_to_have_taken_what_was_never_sent_gets_nothing() {
        let mut credit = Outgoing::default();
        credit.update(100, 1);
        assert_eq!(credit.available(), 0);
    }

    #[test]
    fn a_guest_that_shrinks_its_buffer_below_what_is_in_flight_gets_nothing() {
        let mut credit = Outgoing::default();
        credit.update(100, 0);
        credit.spend(80);
        credit.update(50, 10);
        assert_eq!(credit.available(), 0);
    }

    #[test]
    fn a_guest_may_fill_the_buffer_and_not_a_byte_more() {
        let mut credit = Incoming::default();
        assert!(credit.receive(BUFFER));
        assert!(!credit.receive(1));
        credit.take(1);
        assert!(credit.receive(1));
        assert!(!credit.receive(u32::MAX));
    }

    proptest! {
        /// Two ends that keep the rules never overflow a buffer and never get
        /// stuck, across the wrap of the counters too.
        #[test]
        fn a_sender_and_a_receiver_that_keep_the_rules_always_get_on(
            start in prop_oneof![Just(0u32), any::<u32>(), Just(u32::MAX - 1000)],
            steps in proptest::collection::vec((1usize..200_000, 1usize..200_000), 1..200),
        ) {
            let mut out = Outgoing { sent: start, peer_buffer: BUFFER, peer_taken: start };
            let mut inc = Incoming { received: start, taken: start, told: start };
            let mut held = 0;
            for (want, drain) in steps {
                let n = want.min(out.available());
                out.spend(n);
                prop_assert!(inc.receive(n as u32));
                held += n;
                prop_assert!(held <= BUFFER as usize);
                let n = drain.min(held);
                inc.take(n);
                held -= n;
                if inc.is_due() {
                    out.update(BUFFER, inc.tell());
                }
                prop_assert!(held > 0 || out.available() > 0, "both sides wait");
            }
        }
    }
}
