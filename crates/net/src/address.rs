//! The addresses of VMs: each VM has a block of four from a pool.
//!
//! Three of them are used. The guest's own is a /32: apart from it, the network configuration that
//! the guest's kernel has is the same in all clones.

use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::str::FromStr;

/// The addresses that VMs get, such as `10.213.0.0/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    base: Ipv4Addr,
    prefix: u8,
}

/// The four addresses of one VM: two for the link between its namespace and the host, and the
/// guest's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Block(u32);

/// Prefix length of the link between a namespace and the host: two addresses, no broadcast
/// (RFC 3021).
pub const LINK_PREFIX: u8 = 31;

/// Prefix of the names of the host's interfaces to VMs, and of no other interface.
pub const INTERFACE_PREFIX: &str = "hf";

/// Prefix length of a single address.
pub const HOST_PREFIX: u8 = 32;

impl Pool {
    /// 10.213.0.0/16.
    pub const DEFAULT: Self = Self {
        base: Ipv4Addr::new(10, 213, 0, 0),
        prefix: 16,
    };

    /// Whether the pool contains an address.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        (u32::from(address) ^ u32::from(self.base)) >> (32 - self.prefix) == 0
    }

    /// Its first address.
    pub fn base(&self) -> Ipv4Addr {
        self.base
    }

    /// Its prefix length.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How many blocks it has for VMs.
    pub fn len(&self) -> u32 {
        (1 << (30 - self.prefix)) - 1
    }

    /// Whether it has no block; it always has one.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Block number `index`, from 0.
    ///
    /// # Panics
    /// When the pool has fewer blocks.
    pub fn block(&self, index: u32) -> Block {
        assert!(index < self.len(), "a block of the pool");
        Block(u32::from(self.base) + 4 * (index + 1))
    }

    /// The block that every guest of mode `same` sees: the first, which no VM gets.
    pub fn visible(&self) -> Block {
        Block(self.base.into())
    }
}

impl FromStr for Pool {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("'{text}' is no pool: write it as 10.213.0.0/16, from /8 to /28");
        let (base, prefix) = text.split_once('/').ok_or_else(form)?;
        let base: Ipv4Addr = base.parse().map_err(|_| form())?;
        let prefix: u8 = prefix.parse().map_err(|_| form())?;
        let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        if !(8..=28).contains(&prefix) || u32::from(base) & host_bits != 0 {
            return Err(form());
        }
        Ok(Self { base, prefix })
    }
}

impl Block {
    /// The address of the namespace's end of the link to the host.
    pub fn up(self) -> Ipv4Addr {
        self.0.into()
    }

    /// The address of the host's end.
    pub fn host(self) -> Ipv4Addr {
        (self.0 + 1).into()
    }

    /// The guest's address.
    pub fn guest(self) -> Ipv4Addr {
        (self.0 + 3).into()
    }

    /// The name of the host's interface.
    pub fn interface(self) -> String {
        format!("{INTERFACE_PREFIX}{:08x}", self.0)
    }

    /// The block that contains an address.
    pub fn containing(address: Ipv4Addr) -> Self {
        Self(u32::from(address) & !3)
    }

    /// The block of the VM whose interface on the host has this name; `None` for any other
    /// interface.
    pub fn of_interface(name: &str) -> Option<Self> {
        let number = name.strip_prefix(INTERFACE_PREFIX)?;
        let block = u32::from_str_radix(number, 16).map(Self).ok()?;
        (block.interface() == name).then_some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn all(block: Block) -> [Ipv4Addr; 3] {
        [block.up(), block.host(), block.guest()]
    }

    proptest! {
        #[test]
        fn blocks_lie_in_the_pool_and_never_overlap(base in any::<u32>(), prefix in 8u8..=28, at in any::<u32>()) {
            let mask = u32::MAX << (32 - prefix);
            let pool: Pool = format!("{}/{prefix}", Ipv4Addr::from(base & mask)).parse().unwrap();
            let index = at % pool.len();
            let block = pool.block(index);
            let others = [pool.visible(), pool.block((index + 1) % pool.len())];
            for address in all(block) {
                prop_assert!(pool.contains(address));
                prop_assert_eq!(u32::from(address) & mask, base & mask);
                for other in others.into_iter().filter(|other| *other != block) {
                    prop_assert!(!all(other).contains(&address));
                }
            }
            prop_assert_eq!(u32::from(block.up()) | 1, u32::from(block.host()));
            prop_assert_eq!(Block::of_interface(&block.interface()), Some(block));
            for address in all(block) {
                prop_assert_eq!(Block::containing(address), block);
            }
            prop_assert!(block.interface().len() < 16);
        }
    }

    #[test]
    fn what_is_no_pool_is_told_with_the_form_of_one() {
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/7",
            "10.0.0.0/29",
            "10.0.0.1/16",
            "10.0/16",
            "x/16",
        ] {
            let error = bad.parse::<Pool>().unwrap_err();
            assert!(error.contains("10.213.0.0/16"), "{error}");
        }
        assert_eq!("10.213.0.0/16".parse(), Ok(Pool::DEFAULT));
        assert!(!Pool::DEFAULT.contains(Ipv4Addr::new(10, 214, 0, 0)));
        assert_eq!(Pool::DEFAULT.len(), 16_383);
        assert_eq!("10.0.0.0/28".parse::<Pool>().unwrap().len(), 3);
    }

    #[test]
    fn other_interfaces_are_not_ours() {
        for name in [
            "eth0",
            "hf0",
            "hfxxxxxxxx",
            "hf+ad50004",
            "hf0ad500041",
            "lo",
        ] {
            assert_eq!(Block::of_interface(name), None, "{name}");
        }
    }
}
