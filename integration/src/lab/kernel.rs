//! The guest's kernel: user-mode Linux from the source of Debian's kernel, with the
//! options of `integration/lab/kernel.options`. It is built once and kept in a cache
//! folder outside the clone.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::packages;

/// Options on top of `make ARCH=um defconfig`.
const OPTIONS: &str = include_str!("../../lab/kernel.options");

/// What `defconfig` has and the lab does not want.
const OFF: &[&str] = &["MODULES", "DEBUG_INFO", "SOUND", "SECURITY", "WLAN", "ETHERNET"];

/// Debian's own user-mode Linux, the fallback.
const DEBIANS: &str = "/usr/bin/linux.uml";

/// A kernel that boots the guest.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The program.
    pub path: PathBuf,
    /// Whether it is the one that the lab builds. Debian's lacks nftables and xfrm
    /// interfaces and needs its modules loaded.
    pub own: bool,
}

/// Finds the kernel, or builds it.
///
/// # Errors
/// What is missing.
pub fn find_or_build() -> Result<Kernel> {
    let cache = cache()?;
    fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    if let Some(path) = built(&cache)? {
        return Ok(Kernel { path, own: true });
    }
    let failure = match build(&cache) {
        Ok(path) => return Ok(Kernel { path, own: true }),
        Err(failure) => failure,
    };
    let path = PathBuf::from(DEBIANS);
    if path.exists() {
        eprintln!(
            "cannot build the lab's kernel: {failure:#}\n\
             takes Debian's user-mode-linux instead: it has no nftables and no xfrm interfaces, \
             so scenarios that steer or guard traffic cannot run"
        );
        return Ok(Kernel { path, own: false });
    }
    Err(failure.context("there is no kernel for the lab, and user-mode-linux is not installed"))
}

fn cache() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = set("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| set("HOME").map(|home| Path::new(&home).join(".cache")));
    let base = base.context("neither XDG_CACHE_HOME nor HOME is set: no place for the kernel")?;
    Ok(base.join("cxtp/lab"))
}

/// Name of the folder of kernels with these options, without the source's version.
fn options_name() -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, OPTIONS.as_bytes());
    let hex: String = digest.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("linux-{hex}")
}

/// Name of the folder of the kernel of this version of the source.
fn folder_name(version: &str) -> String {
    format!("{}-{version}", options_name())
}

/// The kernel in the cache: of the installed source, or of any where none is installed.
fn built(cache: &Path) -> Result<Option<PathBuf>> {
    if let Some(version) = packages::version(packages::KERNEL_SOURCE)? {
        let path = cache.join(folder_name(&version)).join("linux");
        return Ok(path.exists().then_some(path));
    }
    let prefix = options_name();
    let mut found = Vec::new();
    for entry in fs::read_dir(cache)? {
        let entry = entry?;
        let path = entry.path().join("linux");
        if entry.file_name().to_string_lossy().starts_with(&prefix) && path.exists() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found.pop())
}

fn build(cache: &Path) -> Result<PathBuf> {
    packages::for_kernel()?;
    let version = packages::version(packages::KERNEL_SOURCE)?;
    let version = version.context("the source of the kernel is not installed")?;
    let folder = cache.join(folder_name(&version));
    let kernel = folder.join("linux");
    let lock = cache.join("lock");
    let lock = File::create(&lock).with_context(|| format!("cannot write {}", lock.display()))?;
    lock.lock()?;
    // Somebody else may have built it while this process waited.
    if kernel.exists() {
        return Ok(kernel);
    }
    let archive = format!("/usr/src/{}.tar.xz", packages::KERNEL_SOURCE);
    eprintln!("builds the lab's kernel from {archive}, once: about 5 minutes on 2 processors");
    let work = tempfile::Builder::new().prefix("build-").tempdir_in(cache)?;
    run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(work.path()), work.path())?;
    let source = work.path().join(packages::KERNEL_SOURCE);
    make(&source, &["defconfig"])?;
    let mut config = Command::new("scripts/config");
    for option in options() {
        config.args(["-e", option]);
    }
    for option in OFF {
        config.args(["-d", option]);
    }
    run(config.args(["-e", "DEBUG_INFO_NONE"]), &source)?;
    make(&source, &["olddefconfig"])?;
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    make(&source, &[&format!("-j{jobs}"), "linux"])?;
    run(Command::new("strip").arg("linux"), &source)?;
    check(&source.join(".config"))?;
    fs::create_dir_all(&folder)?;
    // A half-written kernel never has the name that is looked for.
    let fresh = folder.join("linux.new");
    fs::copy(source.join("linux"), &fresh)?;
    fs::rename(&fresh, &kernel)?;
    Ok(kernel)
}

/// The options by name.
fn options() -> impl Iterator<Item = &'static str> {
    OPTIONS.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace)
}

/// `olddefconfig` drops without a word what the source does not know or what lacks
/// another option: the options without which no scenario runs are looked up.
fn check(config: &Path) -> Result<()> {
    let text = fs::read_to_string(config)?;
    for option in ["INET_ESP", "XFRM_USER", "NF_TABLES", "XFRM_INTERFACE", "NET_SCH_NETEM", "VETH"]
    {
        if !text.lines().any(|line| line == format!("CONFIG_{option}=y")) {
            bail!("the kernel's source did not take the option {option}");
        }
    }
    Ok(())
}

fn make(source: &Path, args: &[&str]) -> Result<()> {
    run(Command::new("make").arg("ARCH=um").args(args), source)
}

/// Runs a command; what it says is shown only if it fails, and then its end.
fn run(command: &mut Command, folder: &Path) -> Result<()> {
    let output = command.current_dir(folder).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {:?}", command.get_program()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<_> = said.lines().collect();
        let end = lines[lines.len().saturating_sub(15)..].join("\n");
        bail!("{command:?} in {}: {}\n{end}", folder.display(), output.status);
    }
    Ok(())
}
