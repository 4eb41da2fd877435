//! `events`.

use crate::args::Events;
use crate::config;
use crate::ui::{self, utc};
use hyperfork_host::events;

/// Prints the events of VMs until it is interrupted. Ctrl-C ends it, as it ends `logs -f`.
///
/// # Errors
/// The run directory cannot be watched, or standard output is closed.
pub(crate) fn run(args: Events) -> anyhow::Result<u8> {
    let mut events = events::Events::begin(config::run_dir()?, args.vms)?;
    loop {
        match events.receive()? {
            Ok(event) if args.json => ui::line(serde_json::to_string(&event)?)?,
            Ok(event) => {
                let time = utc(event.time_unix_ms);
                ui::line(format_args!("{time} {} {}", event.vm, event.kind))?;
            }
            // The other VMs are still followed.
            Err(error) => ui::error(&error.into()),
        }
    }
}
