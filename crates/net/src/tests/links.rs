//! Tests of VMs of different pools on one host, which here is a network namespace.

use super::super::{is_known_to, is_of_a_vm, tidy_up};
use super::*;
use std::fs;
use std::io;

/// A host that forwards packets, as it must for guests to reach the world.
fn on_a_host<T: Send>(test: impl FnOnce(&Netlink, &Netlink) -> T + Send) -> T {
    netns::inside_a_new_one(|| {
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        Ok(test(
            &Netlink::open(Subsystem::Route)?,
            &Netlink::open(Subsystem::Filter)?,
        ))
    })
    .unwrap()
}

fn on_two_pools() -> [(Pool, Namespace); 2] {
    ["192.0.2.0/24", "198.51.100.0/24"].map(|text| {
        let pool = pool(text);
        (pool, namespace(&pool, NetMode::Own))
    })
}

/// Whether a datagram from one VM to another arrives, or its sender gets an
/// error.
fn reaches(one: &Namespace, other: &Namespace) -> bool {
    let to = (other.ip().unwrap(), 7);
    send(one, &datagram(one, one.ip().unwrap(), to, b"hello"));
    eventually("arrival or refusal", || {
        let mut frame = vec![0; 2000];
        if let Some(len) = other.tap().read(&mut frame).unwrap()
            && frame[..len].ends_with(b"hello")
        {
            return Some(true);
        }
        one.tap().read(&mut frame).unwrap()?;
        let refused = frame[PROTOCOL] == 1 && frame[IP + 20..][..2] == [3, 13];
        refused.then_some(false)
    })
}

#[test]
fn guests_of_different_pools_do_not_reach_each_other() {
    on_a_host(|_, filter| {
        let [(_, one), (_, other)] = on_two_pools();
        // The host forwards packets that no rule refuses.
        assert!(reaches(&one, &other));
        filter::part_guests(filter).unwrap();
        filter::part_guests(filter).unwrap();
        assert!(!reaches(&one, &other));
        assert!(!reaches(&other, &one));
        // With the host they speak as before.
        assert!(arrives(&one) && arrives(&other));
    });
}

#[test]
fn what_vms_share_on_the_host_goes_with_the_last_of_them() {
    let is_there = |removed: io::Result<()>| removed.is_ok();
    on_a_host(|route, filter| {
        let [(pool, one), (other_pool, other)] = on_two_pools();
        let make = || {
            filter::part_guests(filter).unwrap();
            filter::hide_guests(filter, &pool).unwrap();
            filter::hide_guests(filter, &other_pool).unwrap();
        };
        make();
        drop(one);
        tidy_up(&pool, route, filter);
        // Those of the other pool are still there, and what is for all.
        assert!(!is_there(filter::show_guests(filter, &pool)));
        assert!(is_there(filter::show_guests(filter, &other_pool)));
        assert!(is_there(filter::let_guests_meet(filter)));
        make();
        drop(other);
        tidy_up(&other_pool, route, filter);
        assert!(!is_there(filter::show_guests(filter, &other_pool)));
        assert!(!is_there(filter::let_guests_meet(filter)));
    });
}

#[test]
fn the_addresses_of_vms_are_known_whatever_their_pool() {
    on_a_host(|route, _| {
        let [(_, one), (_, other)] = on_two_pools();
        for vm in [&one, &other] {
            let (ip, host) = (vm.ip().unwrap(), vm.host().1);
            assert!(is_of_a_vm(ip) && !is_of_a_vm(host));
            assert!(is_known_to(route, ip) && is_known_to(route, host));
            let beside = Ipv4Addr::from(u32::from(ip) + 1);
            assert!(!is_of_a_vm(beside) && !is_known_to(route, beside));
        }
        assert!(!is_of_a_vm(Ipv4Addr::LOCALHOST));
    });
}
