//! `pki config`: a configuration of `cxtpd` from what `pki issue` made.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use protocol_spec::id::Name;
use serde_json::json;

use crate::ctl::{
    args::ConfigArgs,
    files::{self, NewFile},
    outcome::{Answer, Problem},
};

/// Prints the configuration, or writes it into a new file.
pub(in crate::ctl) fn write(args: &ConfigArgs) -> Result<Answer, Problem> {
    let config = config(args)?;
    let facts = json!({"gateway": args.name.as_str(), "config": config, "file": args.out});
    let Some(out) = &args.out else { return Ok(Answer::done(config, &facts)) };
    let mut file = NewFile::create(out, files::PUBLIC)?;
    file.write(config.as_bytes())?;
    file.keep();
    let at = out.display();
    Ok(Answer::done(format!("{at}\nnext: cxtpd --config {at}"), &facts))
}

fn config(args: &ConfigArgs) -> Result<String, Problem> {
    let dir = absolute(&args.dir)?;
    let (state_dir, control_socket) = match &args.home {
        Some(home) => (absolute(home)?.join("state"), absolute(home)?.join("control.sock")),
        None => ("/var/lib/cxtp".into(), "/run/cxtp/control.sock".into()),
    };
    let issued = |name: &Name, ending: &str, role: &str| -> Result<PathBuf, Problem> {
        let path = dir.join(format!("{name}.{ending}"));
        if path.exists() {
            return Ok(path);
        }
        Err(Problem::file(format!(
            "{} is not there: make it with `cxtpctl pki issue --dir {} {role} {name}`",
            path.display(),
            args.dir.display()
        )))
    };
    let public = |name: &Name, ending: &str, role: &str| -> Result<String, Problem> {
        let octets = files::read(&issued(name, ending, role)?, 1024)?;
        Ok(String::from_utf8_lossy(&octets).trim().to_owned())
    };

    let mut text = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{line}");
    };
    put(format_args!(
        "# cxtpd of gateway {}; check it with: cxtpd --config FILE --check",
        args.name
    ));
    put(format_args!("name = {}", quoted(args.name.as_str())));
    put(format_args!("listen = {}", quoted(&args.listen.to_string())));
    put(format_args!("state_dir = {}", quoted_path(&state_dir)?));
    put(format_args!("control_socket = {}", quoted_path(&control_socket)?));
    put(format_args!("\n[gateway]\nkind = {}", quoted(&args.gateway_kind)));
    put(format_args!("socket = {}", quoted_path(&absolute(&args.gateway_socket)?)?));
    put(format_args!("\n[tls]\nca = {}", quoted_path(&dir.join("ca.pem"))?));
    let certificate = issued(&args.name, "pem", "gateway")?;
    put(format_args!("certificate = {}", quoted_path(&certificate)?));
    put(format_args!("key = {}", quoted_path(&issued(&args.name, "key", "gateway")?)?));
    put(format_args!("\n# Sessions in files are sealed to this key (cxtpctl get and put)."));
    let seal_key = issued(&args.name, "seal.key", "gateway")?;
    put(format_args!("[seal]\nkey = {}", quoted_path(&seal_key)?));
    for (name, address) in &args.peers {
        if *name == args.name {
            return Err(Problem::usage(format!("--peer {name}: a gateway is not its own peer")));
        }
        put(format_args!("\n[peers.{}]", quoted(name.as_str())));
        put(format_args!("address = {}", quoted(address)));
        put(format_args!("may_push = true"));
        put(format_args!("may_pull = {}", args.allow_pull));
        if args.allow_pull {
            put(format_args!("pulls_per_minute = 100000"));
        }
        let seal_key = public(name, "seal.pub", "gateway")?;
        put(format_args!("seal_key = {}", quoted(&seal_key)));
    }
    for name in &args.controllers {
        put(format_args!("\n[controllers.{}]", quoted(name.as_str())));
        let key = public(name, "order.pub", "controller")?;
        put(format_args!("public_key = {}", quoted(&key)));
    }
    Ok(text)
}

/// A daemon may start elsewhere, so its files have full names.
fn absolute(path: &Path) -> Result<PathBuf, Problem> {
    std::path::absolute(path)
        .map_err(|error| Problem::usage(format!("`{}`: {error}", path.display())))
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn quoted_path(path: &Path) -> Result<String, Problem> {
    path.to_str().map(quoted).ok_or_else(|| {
        Problem::usage(format!("`{}` is not UTF-8 and cannot stand in TOML", path.display()))
    })
}
