//! Which devices a cgroup may use, on the unified hierarchy.
//!
//! v1 has a controller for this; v2 leaves it to a program attached to the
//! cgroup. The program is a chain of comparisons, put together here by hand:
//! it needs no loader, no maps and no compiler.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;

/// A device that may be used; what is absent is any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Block (`true`) or character device.
    pub block: bool,
    /// Major number.
    pub major: Option<u32>,
    /// Minor number.
    pub minor: Option<u32>,
    /// May be read.
    pub read: bool,
    /// May be written.
    pub write: bool,
    /// May be made by `mknod`.
    pub mknod: bool,
}

const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// Allows the processes of the cgroup folder `folder` these devices and no
/// others. Goes with the cgroup.
pub fn restrict(folder: &Path, allowed: &[Allowed]) -> Result<()> {
    let cgroup = std::fs::File::open(folder)?;
    let program = load(&assemble(allowed))?;
    let mut attach = Attach {
        target: cgroup.as_raw_fd() as u32,
        program: program.as_raw_fd() as u32,
        kind: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
    };
    bpf(BPF_PROG_ATTACH, &mut attach).map(drop)
}

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const PROGRAM_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is
/// not passed as zero.
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// The head of `union bpf_attr` for `BPF_PROG_ATTACH`.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn load(instructions: &[u64]) -> Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut load = Load {
        kind: PROGRAM_CGROUP_DEVICE,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
    };
    let fd = bpf(BPF_PROG_LOAD, &mut load)?;
    // SAFETY: the kernel has just made this descriptor for us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_long, attributes: &mut T) -> Result<i32> {
    // SAFETY: `attributes` is a structure of plain integers laid out as the
    // head of `union bpf_attr`, its size is passed with it, and the buffers
    // its pointers name outlive the call.
    let code = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if code < 0 {
        Err(Error::last_os_error())
    } else {
        Ok(code as i32)
    }
}

/// One instruction.
fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: u32) -> u64 {
    u64::from(code)
        | u64::from(dst | (src << 4)) << 8
        | u64::from(offset as u16) << 16
        | u64::from(immediate) << 32
}

const LOAD_WORD: u8 = 0x61;
const SHIFT_RIGHT: u8 = 0x74;
const AND: u8 = 0x54;
const MOVE: u8 = 0xbc;
const SET: u8 = 0xb7;
const JUMP_UNLESS: u8 = 0x56;
const JUMP_UNLESS_SAME: u8 = 0x5e;
const EXIT: u8 = 0x95;

/// The program: its argument is access and type in one word, major, minor.
fn assemble(allowed: &[Allowed]) -> Vec<u64> {
    let mut program = vec![
        op(LOAD_WORD, 2, 1, 0, 0),
        op(MOVE, 3, 2, 0, 0),
        op(SHIFT_RIGHT, 3, 0, 0, 16),
        op(AND, 2, 0, 0, 0xffff),
        op(LOAD_WORD, 4, 1, 4, 0),
        op(LOAD_WORD, 5, 1, 8, 0),
    ];
    for rule in allowed {
        let access = u32::from(rule.mknod) * MKNOD
            + u32::from(rule.read) * READ
            + u32::from(rule.write) * WRITE;
        let kind = if rule.block { BLOCK } else { CHARACTER };
        // (code, dst, src, immediate); jumps get their distance below.
        let mut steps = vec![
            (JUMP_UNLESS, 2, 0, kind),
            (MOVE, 0, 3, 0),
            (AND, 0, 0, access),
            (JUMP_UNLESS_SAME, 0, 3, 0),
        ];
        steps.extend(rule.major.map(|major| (JUMP_UNLESS, 4, 0, major)));
        steps.extend(rule.minor.map(|minor| (JUMP_UNLESS, 5, 0, minor)));
        steps.extend([(SET, 0, 0, 1), (EXIT, 0, 0, 0)]);
        let count = steps.len();
        for (index, (code, dst, src, immediate)) in steps.into_iter().enumerate() {
            let jumps = matches!(code, JUMP_UNLESS | JUMP_UNLESS_SAME);
            let distance = if jumps { (count - index - 1) as i16 } else { 0 };
            program.push(op(code, dst, src, distance, immediate));
        }
    }
    program.extend([op(SET, 0, 0, 0, 0), op(EXIT, 0, 0, 0, 0)]);
    program
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn instructions_are_laid_out_as_the_kernel_reads_them() {
        assert_eq!(op(0x61, 2, 1, 4, 0), 0x0000_0000_0004_1261);
        assert_eq!(op(0x56, 4, 0, -1, 8), 0x0000_0008_ffff_0456);
        assert_eq!(assemble(&[]).len(), 8);
    }

    /// Needs root and a unified hierarchy, which may be an unused one beside v1.
    #[test]
    fn the_kernel_refuses_other_devices() {
        let table = std::fs::read_to_string("/proc/mounts").unwrap();
        let mount = table.lines().find_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let point = fields.next()?;
            (fields.next()? == "cgroup2").then(|| Path::new(point).to_owned())
        });
        let Some(mount) = mount.filter(|_| nix::unistd::geteuid().is_root()) else {
            return eprintln!("skipped: needs root and a cgroup2 mount");
        };
        let folder = mount.join(format!("karve-test-devices-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let null = Allowed {
            block: false,
            major: Some(1),
            minor: Some(3),
            read: true,
            write: false,
            mknod: false,
        };
        restrict(
            &folder,
            &[
                Allowed {
                    block: true,
                    ..null
                },
                null,
            ],
        )
        .unwrap();
        // The shell moves itself in and then tries.
        let script = format!(
            "echo $$ > {}/cgroup.procs; for f in '< /dev/null' '> /dev/null' '< /dev/zero'; do \
             (eval \": $f\") 2>&1 && echo yes || echo no; done",
            folder.display()
        );
        let out = std::process::Command::new("sh")
            .args(["-c", &script])
            .output()
            .unwrap();
        let out = String::from_utf8_lossy(&out.stdout).into_owned();
        let answers: Vec<&str> = out.lines().filter(|l| matches!(*l, "yes" | "no")).collect();
        std::fs::remove_dir(&folder).unwrap();
        assert_eq!(answers, ["yes", "no", "no"], "{out}");
    }
}
