//! Proxies before nodes, with the configurations the project ships.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::servers::{free_port, signal};
use super::{DEADLINE, wait_until};

/// Which program it is.
#[derive(Debug, Clone, Copy)]
pub enum Proxy {
    /// `deploy/nginx.conf`.
    Nginx,
    /// `deploy/haproxy.cfg`.
    Haproxy,
    /// `deploy/Caddyfile`.
    Caddy,
}

/// A proxy of the test's own.
pub struct Balancer {
    /// `http://127.0.0.1:port`.
    pub address: String,
    /// `https://localhost:port`, with a certificate that nobody trusts.
    pub tls_address: String,
    process: Child,
    _folder: TempDir,
}

impl Balancer {
    /// nginx before these three nodes.
    pub async fn start(nodes: [&str; 3]) -> Self {
        Self::start_as(Proxy::Nginx, nodes).await
    }

    /// A proxy before these three nodes: nothing in its configuration is changed but addresses and folders, and its
    /// lines for TLS are no longer comments.
    pub async fn start_as(proxy: Proxy, nodes: [&str; 3]) -> Self {
        let folder = TempDir::new().unwrap();
        // Its workers run as another user.
        assert!(Command::new("chmod").arg("755").arg(folder.path()).status().unwrap().success());
        make_certificate(folder.path());
        let (plain, tls) = (free_port(), free_port());
        let text = proxy.configuration(nodes, plain, tls, folder.path());
        let file = folder.path().join("configuration");
        std::fs::write(&file, text).unwrap();
        let process = proxy.command(&file, folder.path()).spawn().expect("run the tests with scripts/test");
        let address = format!("http://127.0.0.1:{plain}");
        let balancer =
            Self { address, tls_address: format!("https://localhost:{tls}"), process, _folder: folder };
        let answers = async || {
            reqwest::get(format!("{}/healthz", balancer.address)).await.is_ok_and(|a| a.status() == 200)
        };
        wait_until(DEADLINE, &format!("{proxy:?} passes requests on"), answers).await;
        balancer
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        // Not killed: workers would stay.
        signal(self.process.id(), "TERM");
        let _ = self.process.wait();
    }
}

impl Proxy {
    fn configuration(self, nodes: [&str; 3], plain: u16, tls: u16, folder: &Path) -> String {
        let path = folder.display();
        let (text, changes) = match self {
            Self::Nginx => (
                include_str!("../../deploy/nginx.conf"),
                [
                    ("http {", nginx_http(folder)),
                    ("listen 8080;", format!("listen 127.0.0.1:{plain};")),
                    ("# listen 8443 ", format!("listen 127.0.0.1:{tls} ")),
                    ("# ssl_certificate /etc/nginx", format!("ssl_certificate {path}")),
                    ("# ssl_certificate_key /etc/nginx", format!("ssl_certificate_key {path}")),
                ]
                .to_vec(),
            ),
            Self::Haproxy => (
                include_str!("../../deploy/haproxy.cfg"),
                [
                    ("bind :8080", format!("bind 127.0.0.1:{plain}")),
                    ("# bind :8443 ssl crt /etc/haproxy", format!("bind 127.0.0.1:{tls} ssl crt {path}")),
                    ("/usr/local/etc/haproxy", format!("{}/deploy", env!("CARGO_MANIFEST_DIR"))),
                ]
                .to_vec(),
            ),
            Self::Caddy => (
                include_str!("../../deploy/Caddyfile"),
                [
                    ("\n:8080 {", format!("\n:{plain} {{\n\tbind 127.0.0.1")),
                    ("# https://:8443 {", format!("https://localhost:{tls} {{\n\tbind 127.0.0.1")),
                    (
                        "# \ttls /etc/caddy/carillon.pem /etc/caddy/",
                        format!("\ttls {path}/carillon.pem {path}/"),
                    ),
                    ("# \timport carillon\n# }", "\timport carillon\n}".to_owned()),
                ]
                .to_vec(),
            ),
        };
        let mut text = text.to_owned();
        for (planned, here) in changes {
            assert!(text.contains(planned), "{self:?}: {planned}");
            text = text.replace(planned, &here);
        }
        for (index, node) in nodes.iter().enumerate() {
            let planned = format!("carillon-{}:8080", index + 1);
            assert!(text.contains(&planned), "{self:?}: {planned}");
            text = text.replace(&planned, node.trim_start_matches("http://"));
        }
        match self {
            Self::Nginx => format!("daemon off;\npid {path}/pid;\nerror_log {path}/log warn;\n{text}"),
            Self::Haproxy => text,
            Self::Caddy => {
                format!("{{\n\tadmin off\n\tauto_https disable_redirects\n}}\n{text}")
            }
        }
    }

    fn command(self, file: &Path, folder: &Path) -> Command {
        let mut command = Command::new(match self {
            Self::Nginx => "/usr/sbin/nginx",
            Self::Haproxy => "/usr/sbin/haproxy",
            Self::Caddy => "/usr/bin/caddy",
        });
        match self {
            Self::Nginx => command.arg("-e").arg(folder.join("log")).arg("-c").arg(file),
            // It and Caddy say what they do on their errors; a test that fails has no use for it.
            Self::Haproxy => command.arg("-q").arg("-f").arg(file).stderr(Stdio::null()),
            Self::Caddy => {
                let folders = [("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config")];
                command.envs(folders.map(|(name, own)| (name, folder.join(own)))).arg("run");
                command.args(["--adapter", "caddyfile", "--config"]).arg(file).stderr(Stdio::null())
            }
        };
        command
    }
}

fn nginx_http(folder: &Path) -> String {
    let path = folder.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {path}/{kind};\n"));
    format!("http {{\n{}", temporary.concat())
}

/// `carillon.key`, and `carillon.pem` with the certificate and the key, as HAProxy wants it.
fn make_certificate(folder: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
        .args(["-keyout", "carillon.key", "-out", "carillon.pem"])
        .current_dir(folder)
        .output()
        .expect("run the tests with scripts/test");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let file = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    std::fs::write(folder.join("carillon.pem"), file("carillon.pem") + &file("carillon.key")).unwrap();
}
