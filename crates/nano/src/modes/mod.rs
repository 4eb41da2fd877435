//! The modes of the guest, chosen by its command line.

mod cow;
mod flood;
mod fork;
mod idle;
mod isolate;
mod pending;
mod quick;
mod regs;
mod timer;

use crate::machine::Machine;
use crate::options::{Mode, Options};
use crate::port::{print, signal};
use crate::signal::Message;
use crate::{cpu, fail, pages};

/// What every CPU knows.
struct Job<'a> {
    /// Which one it is.
    cpu: usize,
    /// How many there are.
    cpus: usize,
    options: &'a Options,
}

/// Runs CPU `cpu` as the options say.
pub(crate) fn run(cpu: usize, options: &Options, machine: &Machine) -> ! {
    let job = Job {
        cpu,
        cpus: machine.cpus(),
        options,
    };
    if cpu == 0 {
        if job.cpus > cpu::MAX {
            fail(format_args!("there are more than {} CPUs", cpu::MAX));
        }
        let work = options.work();
        machine.provide(&work);
        // Its first writes are what `cow` measures.
        if options.mode != Mode::Cow {
            pages::touch(&work);
        }
        cpu::start_others(job.cpus, machine.boot_params);
    } else {
        cpu::progress(cpu);
    }
    match options.mode {
        Mode::Idle => idle::run(&job, idle::Wait::Halted),
        Mode::Spin => idle::run(&job, idle::Wait::Busy),
        Mode::Regs => regs::run(&job),
        Mode::Isolate => isolate::run(&job),
        Mode::Timer => timer::run(&job),
        Mode::Pending => pending::run(&job),
        Mode::Fork => fork::run(&job),
        Mode::Flood => flood::run(&job),
        Mode::Quick => quick::run(&job),
        Mode::Cow => cow::run(&job),
    }
}

impl Job<'_> {
    /// CPU 0 says what it does.
    fn announce(&self) {
        print(format_args!(
            "nano: {:?}, {} MiB touched, {} CPUs\n",
            self.options.mode, self.options.touch_mib, self.cpus
        ));
    }

    /// CPU 0 tells the monitor that it can be forked from now on.
    fn ready(&self) {
        self.announce();
        signal(Message::Ready(0));
        if self.options.fork > 0 {
            let clones = self.options.fork;
            signal(Message::Fork { clones, tag: 0 });
        }
    }
}

/// All is well with clone `index`, which gives `code` as its result.
fn done(index: u32, code: u32) {
    print(format_args!("nano: clone {index}: {code:#x}\n"));
    signal(Message::Done(code));
}
