//! The files a program may touch, as a Landlock ruleset: what is not granted is refused.

use super::Allowed;
use crate::config::ShellConfig;
use landlock::{
    ABI, Access, AccessFs, BitFlags, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr,
    Scope, path_beneath_rules,
};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// What rules are made of.
pub struct Places<'a> {
    /// What is configured besides.
    pub config: &'a ShellConfig,
    /// What the command is allowed.
    pub allowed: &'a Allowed<'a>,
}

/// Programs and their libraries.
const PROGRAMS: &[&str] =
    &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/gnu", "/snap"];

/// What programs read of the system. None of it is secret: the keys in `/etc` are not named.
const READABLE: &[&str] = &[
    "/etc/alternatives",
    "/etc/bash.bashrc",
    "/etc/ca-certificates",
    "/etc/ca-certificates.conf",
    "/etc/crypto-policies",
    "/etc/debian_version",
    "/etc/fonts",
    "/etc/gai.conf",
    "/etc/gitconfig",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/inputrc",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/ld.so.preload",
    "/etc/locale.alias",
    "/etc/locale.conf",
    "/etc/localtime",
    "/etc/lsb-release",
    "/etc/magic",
    "/etc/magic.mime",
    "/etc/manpath.config",
    "/etc/mime.types",
    "/etc/nsswitch.conf",
    "/etc/os-release",
    "/etc/passwd",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/certs",
    "/etc/profile",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/shells",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/terminfo",
    "/etc/timezone",
    "/proc",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
];

/// Of the user's folder: toolchains and settings, no keys.
const OF_THE_USER: &[&str] =
    &[".cargo/bin", ".config/git", ".gitconfig", ".local/bin", ".local/lib", ".nvm", ".pyenv", ".rbenv", ".rustup"];

/// Devices that hold nothing.
const DEVICES: &[&str] = &["/dev/full", "/dev/null", "/dev/random", "/dev/urandom", "/dev/zero"];

fn version(abi: u32) -> ABI {
    match abi {
        0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        // What is newer adds nothing that is used here.
        _ => ABI::V7,
    }
}

/// The ruleset, if the kernel has one.
pub fn ruleset(places: &Places<'_>, abi: u32) -> Result<Option<OwnedFd>, String> {
    build(places, version(abi)).map(Option::from).map_err(|error| format!("the file sandbox cannot be made: {error}"))
}

fn build(Places { config, allowed }: &Places<'_>, abi: ABI) -> Result<RulesetCreated, landlock::RulesetError> {
    let all = AccessFs::from_all(abi);
    let look = AccessFs::ReadFile | AccessFs::ReadDir;
    let run = look | AccessFs::Execute;
    // Everything but running and devices.
    let change = all & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev);
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(all)?;
    let scopes = Scope::from_all(abi);
    if !scopes.is_empty() {
        ruleset = ruleset.scope(scopes)?;
    }
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| home.is_absolute());
    let of_the_user = home.iter().flat_map(|home| OF_THE_USER.iter().map(|place| home.join(place)));
    let readable = READABLE.iter().map(PathBuf::from).chain(config.read.iter().cloned());
    let further: &[PathBuf] = if allowed.writes { &config.write } else { &[] };
    // A policy that lets nothing be written does not let what others wrote be run.
    let workspace: BitFlags<AccessFs> = if allowed.writes { change | AccessFs::Execute } else { look };
    ruleset
        .create()?
        .add_rules(path_beneath_rules(PROGRAMS.iter().map(Path::new), run))?
        .add_rules(path_beneath_rules(of_the_user, run))?
        .add_rules(path_beneath_rules(&config.path, run))?
        .add_rules(path_beneath_rules(readable, look))?
        .add_rules(path_beneath_rules(DEVICES.iter().map(Path::new), AccessFs::ReadFile | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(further, change))?
        .add_rules(path_beneath_rules([allowed.temporary], change | AccessFs::Execute))?
        .add_rules(path_beneath_rules([allowed.root], workspace))
}
