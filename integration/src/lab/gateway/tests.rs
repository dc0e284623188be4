use std::{ffi::OsString, process::ExitCode};

use super::*;

#[test]
fn cxtp_linux_takes_its_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("linux.toml");
    for sharing in [Sharing::None, Sharing::Address, Sharing::Multicast] {
        for at in [0, 1] {
            let settings = Settings { sharing, ..Settings::default() };
            fs::write(&file, linux_toml(at, folder.path(), &settings)).unwrap();
            let args = ["cxtp-linux".into(), "--check".into(), "--config".into()];
            let args: Vec<OsString> = args.into_iter().chain([file.clone().into()]).collect();
            assert_eq!(gateway_plugin::linux::linux_main(args), ExitCode::SUCCESS, "{sharing:?}");
        }
    }
}
