//! Memory that a guest frees.

use super::support::{self, User, eventually, finish};
use super::{boot, exec};

/// What a guest writes and frees, MiB, and what of that comes back at least: what has a
/// neighbour in use does not.
const FREED: u64 = 32;
const COMES_BACK: u64 = FREED / 2;

#[test]
fn what_a_guest_frees_is_given_back_before_its_first_fork_and_by_clones_too() {
    let user = User::new();
    boot(&user, "p", &[]);
    let peak = must_give_back(&user, "p");
    user.ok(&["fork", "p", "--quiet"]);
    let [shared, _] = memory(&user, "p-1");
    assert!(shared + COMES_BACK <= peak, "{shared} of {peak} MiB");
    must_give_back(&user, "p-1");
    // Neither misses anything.
    for vm in ["p", "p-1"] {
        let written = exec(
            &user,
            vm,
            "dd if=/bin/busybox of=/new && cmp /bin/busybox /new",
        );
        assert_eq!(written.status, 0, "{written:?}");
        let console = support::read(user.run_dir().join(vm).join("console.log"));
        assert!(!console.contains("BUG"), "{console}");
    }
}

/// Has a guest write and free memory, until that is no longer its own. Gives what it had.
fn must_give_back(user: &User, vm: &str) -> u64 {
    let own = || memory(user, vm)[1];
    let before = own();
    // It holds all of it until it is read, which does not happen.
    let script = format!("dd if=/dev/zero bs={FREED}M count=1 | sleep 1000");
    let program = user.start(&["exec", vm, "--", "sh", "-c", &script]);
    let grown = format!("{vm}: {FREED} MiB more than {before}");
    eventually(&grown, || own() >= before + FREED);
    let peak = own();
    user.ok(&["exec", vm, "--", "killall", "sleep"]);
    finish(program);
    let back = format!("{vm}: {COMES_BACK} MiB less than {peak}");
    eventually(&back, || own() + COMES_BACK <= peak);
    peak
}

/// MiB that a VM shares, and has of its own.
fn memory(user: &User, vm: &str) -> [u64; 2] {
    let info = user.json(&["inspect", vm]);
    ["shared_kib", "private_kib"].map(|key| info[key].as_u64().unwrap() >> 10)
}
