//! A distribution's own kernel, unmodified, under an image of ours. Such a kernel
//! needs hardware KVM, and finds our devices by ACPI.

#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod support;

use support::User;

/// A file whose path an environment variable has.
fn file(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("set {variable} (docs/testing.md)"))
}

#[test]
#[ignore = "needs hardware KVM and a distribution's kernel; `cargo xtask test` has both"]
fn an_unmodified_kernel_boots_and_its_clones_answer_for_themselves() {
    let user = User::new();
    let (kernel, initrd) = (file("HYPERFORK_TEST_KERNEL"), file("HYPERFORK_TEST_INITRD"));
    let boot = format!(
        "run -d --quiet --name p --image base --cpus 2 --memory 256MiB \
         --kernel {kernel} --initrd {initrd} --net none --ready-timeout 300s"
    );
    let boot: Vec<&str> = boot.split_whitespace().collect();
    assert_eq!(user.ok(&boot), "p\n");

    let timer = "/sys/devices/system/clockevents/clockevent0/current_device";
    let script = format!("uname -r; nproc; cat {timer}; ls /sys/bus/acpi/devices");
    let ended = user.run(&["exec", "p", "--", "sh", "-c", &script]);
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(!lines[0].contains("hyperfork"), "{ended:?}");
    assert_eq!(lines[1], "2");
    // It does not depend on how well it measured.
    assert_eq!(lines[2], "lapic-deadline");
    // Disk, console, sockets, randomness, balloon.
    let described = lines.iter().filter(|line| line.starts_with("LNRO0005:"));
    assert_eq!(described.count(), 5, "{ended:?}");
    assert!(lines.contains(&"HYPF0001:00"), "{ended:?}");

    // The host has nested virtualization, and the guest does not see it.
    let below = std::fs::read_to_string("/proc/cpuinfo").unwrap();
    let has = |cpuinfo: &str, flag| cpuinfo.split_whitespace().any(|word| word == flag);
    assert!(has(&below, "svm") || has(&below, "vmx"), "{below}");
    let told = user.ok(&["exec", "p", "--", "cat", "/proc/cpuinfo"]);
    assert!(!has(&told, "svm") && !has(&told, "vmx"), "{told}");
    assert!(
        has(&told, "x2apic") && has(&told, "tsc_deadline_timer"),
        "{told}"
    );

    let write = |vm: &str| user.ok(&["exec", vm, "--", "sh", "-c", &format!("echo {vm} > /x")]);
    let read = |vm: &str| user.ok(&["exec", vm, "--", "cat", "/x"]);
    write("p");
    let report = user.json(&["fork", "p", "-n", "2", "--json"]);
    assert_eq!(report["clones"].as_array().map(Vec::len), Some(2));
    assert_eq!([read("p-1"), read("p-2")], ["p\n", "p\n"]);
    write("p-1");
    // A clone of the clone, and a later clone of the parent.
    user.ok(&["fork", "p-1"]);
    user.ok(&["fork", "p"]);
    let seen = ["p", "p-1", "p-2", "p-1-1", "p-3"].map(read);
    assert_eq!(seen, ["p\n", "p-1\n", "p\n", "p-1\n", "p\n"]);
    // Each clone gets the interrupt of the generation identifier once.
    // (This kernel has no driver for it, which would reseed the random generator then.)
    let told = |vm: &str| -> u32 {
        let interrupts = user.ok(&["exec", vm, "--", "cat", "/proc/interrupts"]);
        let line = interrupts.lines().find(|line| line.ends_with("ACPI:Ged"));
        let line = line.unwrap_or_else(|| panic!("no line for it: {interrupts}"));
        let counts = line.split_whitespace().skip(1).take(2);
        counts.map(|count| count.parse::<u32>().unwrap()).sum()
    };
    assert_eq!(["p", "p-1", "p-1-1"].map(told), [0, 1, 2]);

    // Powered off as ACPI has it, without a word from the agent.
    let off = "(sleep 1; exec /bin/busybox poweroff -f) > /dev/null 2>&1 &";
    user.ok(&["exec", "p-2", "--", "sh", "-c", off]);
    support::eventually("the end of p-2", || {
        user.json(&["inspect", "p-2"])["state"] == "stopped"
    });
    assert_eq!(read("p"), "p\n");
}
