//! The fingerprint of a host: what a machine that was captured there depends on.

use serde::{Deserialize, Serialize};
use std::fmt;

/// How a host runs guest code. Encoded by number: new ones come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostKind {
    /// The processor's virtualization extension (VT-x or AMD-V).
    Hardware,
    /// PVM: guest user mode runs natively, guest kernel code is emulated, about
    /// 570 ns an instruction. Guests need a kernel that is made for it.
    Pvm,
}

impl fmt::Display for HostKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Hardware => "hardware KVM",
            Self::Pvm => "PVM",
        })
    }
}

/// One leaf of CPUID, as a guest's first vCPU sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuidLeaf {
    /// EAX of the question.
    pub function: u32,
    /// ECX of the question.
    pub index: u32,
    /// EAX, EBX, ECX and EDX of the answer.
    pub answer: [u32; 4],
}

/// The random ID of one boot of a host (`/proc/sys/kernel/random/boot_id`). Clocks and TSCs can be
/// compared only within one boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootId(pub String);

/// The properties of a host on which machines captured there depend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFingerprint {
    /// The kind of KVM.
    pub kind: HostKind,
    /// The processor, as KVM is told to show it to guests.
    pub cpuid: Vec<CpuidLeaf>,
    /// The register sets that the host's kernel has switched on.
    pub xcr0: u64,
    /// The TSC's frequency, kHz; 0 where KVM does not tell.
    pub tsc_khz: u32,
    /// The boot of the host.
    pub boot: BootId,
}

/// A difference between two hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// In the kind of KVM.
    Kind {
        /// Where the machine was captured.
        there: HostKind,
        /// Of this host.
        here: HostKind,
    },
    /// In a leaf of CPUID.
    Cpuid {
        /// EAX of the question.
        function: u32,
        /// ECX of the question.
        index: u32,
    },
    /// In the register sets.
    Xcr0 {
        /// Where the machine was captured.
        there: u64,
        /// Of this host.
        here: u64,
    },
    /// In the TSC's frequency.
    TscKhz {
        /// Where the machine was captured.
        there: u32,
        /// Of this host.
        here: u32,
    },
    /// In the boot.
    Boot,
}

/// A machine was captured on another host than this, or before this one was started.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("it was captured on another host, or before this one was started: {}", Self::list(.0))]
pub struct OtherHost(pub Vec<Difference>);

impl OtherHost {
    fn list(differences: &[Difference]) -> String {
        let list: Vec<_> = differences.iter().map(ToString::to_string).collect();
        list.join(", ")
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind { there, here } => write!(formatter, "{there} there, {here} here"),
            Self::Cpuid { function, index } => {
                write!(formatter, "CPUID differs in leaf {function:#x}, {index}")
            }
            Self::Xcr0 { there, here } => {
                write!(formatter, "XCR0 is {there:#x} there, {here:#x} here")
            }
            Self::TscKhz { there, here } => {
                write!(formatter, "the TSC has {there} kHz there, {here} here")
            }
            Self::Boot => formatter.write_str("the boot id differs"),
        }
    }
}

impl HostFingerprint {
    /// Checks whether a machine that was captured on the host `self` can be restored `here`: only
    /// on the same host, in the same boot.
    ///
    /// # Errors
    /// [`OtherHost`], with all that differs.
    pub fn check(&self, here: &Self) -> Result<(), OtherHost> {
        let mut differences = Vec::new();
        if self.kind != here.kind {
            let (there, here) = (self.kind, here.kind);
            differences.push(Difference::Kind { there, here });
        }
        differences.extend(self.leaves_unlike(here));
        if self.xcr0 != here.xcr0 {
            let (there, here) = (self.xcr0, here.xcr0);
            differences.push(Difference::Xcr0 { there, here });
        }
        if self.boot != here.boot {
            // The kernel may have refined its measurement since, within one boot.
            if self.tsc_khz != here.tsc_khz {
                let (there, here) = (self.tsc_khz, here.tsc_khz);
                differences.push(Difference::TscKhz { there, here });
            }
            differences.push(Difference::Boot);
        }
        match differences.is_empty() {
            true => Ok(()),
            false => Err(OtherHost(differences)),
        }
    }

    /// The leaves that only one of them has, or that have different answers.
    fn leaves_unlike(&self, here: &Self) -> Vec<Difference> {
        if self.cpuid == here.cpuid {
            return Vec::new();
        }
        let missing = |from: &Self, leaf: &CpuidLeaf| !from.cpuid.contains(leaf);
        let there = self.cpuid.iter().filter(|leaf| missing(here, leaf));
        let here = here.cpuid.iter().filter(|leaf| missing(self, leaf));
        let mut leaves: Vec<_> = there
            .chain(here)
            .map(|leaf| (leaf.function, leaf.index))
            .collect();
        leaves.sort_unstable();
        leaves.dedup();
        let unlike = leaves.into_iter();
        unlike
            .map(|(function, index)| Difference::Cpuid { function, index })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFingerprint {
        let leaf = |function, eax| CpuidLeaf {
            function,
            index: 0,
            answer: [eax, 2, 3, 4],
        };
        HostFingerprint {
            kind: HostKind::Hardware,
            cpuid: vec![leaf(0, 0x10), leaf(1, 0x806f8)],
            xcr0: 7,
            tsc_khz: 2_000_000,
            boot: BootId("a5a3bb00-8dd0-4225-9dd3-d7d885bbbb14".to_owned()),
        }
    }

    fn difference(change: impl FnOnce(&mut HostFingerprint)) -> String {
        let mut there = host();
        change(&mut there);
        there.check(&host()).unwrap_err().to_string()
    }

    #[test]
    fn a_host_is_itself_also_when_its_tsc_has_been_measured_again() {
        assert_eq!(host().check(&host()), Ok(()));
        let mut later = host();
        later.tsc_khz += 3;
        assert_eq!(host().check(&later), Ok(()));
    }

    #[test]
    fn what_differs_is_said_in_words() {
        let said = difference(|there| there.boot.0.clear());
        assert!(said.ends_with("started: the boot id differs"), "{said}");
        let said = difference(|there| there.kind = HostKind::Pvm);
        assert!(said.ends_with("PVM there, hardware KVM here"), "{said}");
        let said = difference(|there| there.xcr0 = 0xe7);
        assert!(said.ends_with("XCR0 is 0xe7 there, 0x7 here"), "{said}");
        let said = difference(|there| {
            there.cpuid[1].answer[0] = 0x806f9;
            there.tsc_khz = 2_100_000;
            there.boot.0.clear();
        });
        let expected =
            "leaf 0x1, 0, the TSC has 2100000 kHz there, 2000000 here, the boot id differs";
        assert!(said.ends_with(expected), "{said}");
        let said = difference(|there| there.cpuid.truncate(1));
        assert!(said.ends_with("CPUID differs in leaf 0x1, 0"), "{said}");
    }

    #[test]
    fn each_differing_leaf_is_told_once() {
        let mut there = host();
        there.cpuid.clear();
        let OtherHost(differences) = there.check(&host()).unwrap_err();
        assert_eq!(differences.len(), 2);
    }
}
