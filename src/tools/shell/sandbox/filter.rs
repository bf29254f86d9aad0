//! The system call filter: a list of what is refused, in the kernel's own small language.
//!
//! Refused always: what reaches into other processes, makes new namespaces, or goes around the filter. Refused where there
//! is no network: every socket.

use libc::{BPF_ABS, BPF_JEQ, BPF_JGE, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_RET, BPF_W, sock_filter};

/// Where the kernel puts the number of the call, the kind of machine, and the lower half of the first argument.
const NUMBER: u32 = 0;
const MACHINE: u32 = 4;
const ARGUMENT: u32 = 16;

/// The flags of `clone` that make namespaces.
const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP;

#[cfg(target_arch = "x86_64")]
const THIS_MACHINE: u32 = 0xC000_003E;
#[cfg(target_arch = "aarch64")]
const THIS_MACHINE: u32 = 0xC000_00B7;

/// The most a 64-bit call's number can be; above are those of another interface (x32).
const OTHER_INTERFACE: u32 = 0x4000_0000;

/// Refused for everybody: as not permitted.
const NEVER: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_open_by_handle_at,
];

/// Refused for everybody, as if the kernel did not have it: what is asked for stands where no filter sees it. Programs do
/// without.
const UNKNOWN: &[libc::c_long] =
    &[libc::SYS_io_uring_setup, libc::SYS_io_uring_enter, libc::SYS_io_uring_register, libc::SYS_clone3];

/// Refused where there is no network.
const SOCKETS: &[libc::c_long] = &[libc::SYS_socket];

const fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn jump(code: u32, k: u32, if_so: u8, if_not: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | code | BPF_K) as u16, jt: if_so, jf: if_not, k }
}

fn refuse(errno: i32) -> sock_filter {
    statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ERRNO | errno.unsigned_abs())
}

/// The filter; empty on a machine it is not written for.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub fn program(network: bool) -> Vec<sock_filter> {
    let load = |offset| statement(BPF_LD | BPF_W | BPF_ABS, offset);
    let mut program = vec![
        load(MACHINE),
        jump(BPF_JEQ, THIS_MACHINE, 1, 0),
        refuse(libc::EPERM),
        load(NUMBER),
        jump(BPF_JGE, OTHER_INTERFACE, 0, 1),
        refuse(libc::ENOSYS),
    ];
    let sockets: &[libc::c_long] = if network { &[] } else { SOCKETS };
    for (calls, errno) in [(NEVER, libc::EPERM), (UNKNOWN, libc::ENOSYS), (sockets, libc::EACCES)] {
        for call in calls {
            program.push(jump(BPF_JEQ, *call as u32, 0, 1));
            program.push(refuse(errno));
        }
    }
    program.extend([
        jump(BPF_JEQ, libc::SYS_clone as u32, 0, 3),
        load(ARGUMENT),
        jump(BPF_JSET, NAMESPACES.unsigned_abs(), 0, 1),
        refuse(libc::EPERM),
        statement(BPF_RET | BPF_K, libc::SECCOMP_RET_ALLOW),
    ]);
    program
}

/// The filter; empty on a machine it is not written for.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub fn program(_network: bool) -> Vec<sock_filter> {
    Vec::new()
}
