//! The host's setting of huge pages for shared memory, such as guest memory
//! (Documentation/admin-guide/mm/transhuge.rst).

use std::fs;

/// The file with the setting.
pub const SETTING: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

/// The setting; `None` if the kernel has no huge pages.
pub fn setting() -> Option<String> {
    let choices = fs::read_to_string(SETTING).ok()?;
    chosen(&choices).map(str::to_owned)
}

/// Whether, with this setting, memory that [asks](super::mapping::Mapping::prefer_huge_pages) for
/// huge pages gets them.
pub fn are_given(setting: &str) -> bool {
    matches!(setting, "always" | "within_size" | "advise" | "force")
}

/// The choice in `always [advise] never`.
fn chosen(choices: &str) -> Option<&str> {
    let (_, rest) = choices.split_once('[')?;
    Some(rest.split_once(']')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_stands_in_brackets() {
        let choices = "always within_size advise [never] deny force\n";
        assert_eq!(chosen(choices), Some("never"));
        assert_eq!(chosen("never"), None);
        assert!(!are_given("never") && !are_given("deny") && are_given("advise"));
    }
}
