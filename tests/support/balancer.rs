//! nginx before nodes, with the configuration the project ships.

use std::process::{Child, Command};

use tempfile::TempDir;

use super::servers::{free_port, signal};
use super::{DEADLINE, wait_until};

/// An nginx of the test's own.
pub struct Balancer {
    /// `http://127.0.0.1:port`.
    pub address: String,
    process: Child,
    _folder: TempDir,
}

impl Balancer {
    /// `deploy/nginx.conf` before these three nodes, with nothing changed but addresses and folders.
    pub async fn start(nodes: [&str; 3]) -> Self {
        let folder = TempDir::new().unwrap();
        // Its workers run as another user.
        assert!(Command::new("chmod").arg("755").arg(folder.path()).status().unwrap().success());
        let (path, listen) = (folder.path().display(), format!("127.0.0.1:{}", free_port()));
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {path}/{kind};\n"))
            .concat();
        let mut text = include_str!("../../deploy/nginx.conf")
            .replacen("http {", &format!("http {{\n{temporary}"), 1)
            .replacen("listen 8080;", &format!("listen {listen};"), 1);
        for (index, node) in nodes.iter().enumerate() {
            let planned = format!("carillon-{}:8080", index + 1);
            assert_eq!(text.matches(&planned).count(), 1, "{planned}");
            text = text.replace(&planned, node.trim_start_matches("http://"));
        }
        let file = folder.path().join("nginx.conf");
        let head = format!("daemon off;\npid {path}/pid;\nerror_log {path}/log warn;\n");
        std::fs::write(&file, head + &text).unwrap();
        let process = Command::new("/usr/sbin/nginx")
            .arg("-e")
            .arg(folder.path().join("log"))
            .arg("-c")
            .arg(&file)
            .spawn()
            .expect("nginx must be installed");
        let address = format!("http://{listen}");
        let answers =
            async || reqwest::get(format!("{address}/healthz")).await.is_ok_and(|a| a.status() == 200);
        wait_until(DEADLINE, "nginx passes requests on", answers).await;
        Self { address, process, _folder: folder }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Not killed: its workers would stay.
        signal(self.process.id(), "TERM");
        let _ = self.process.wait();
    }
}
