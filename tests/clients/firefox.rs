//! A real Firefox, by Marionette: its own protocol on a socket, `length:JSON` both ways.

use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::support::servers::free_port;
use crate::support::{DEADLINE, wait_until};

/// A Firefox with a profile of its own and one tab. Ends when dropped.
pub struct Firefox {
    process: Child,
    connection: Mutex<TcpStream>,
    _profile: TempDir,
}

impl Firefox {
    /// Starts one, on this page.
    pub async fn start(page: &str) -> Self {
        let (profile, port) = (TempDir::new().unwrap(), free_port());
        // Nothing of its own on the network.
        let preferences = [
            ("marionette.port", port.to_string()),
            ("app.update.enabled", "false".into()),
            ("browser.shell.checkDefaultBrowser", "false".into()),
            ("datareporting.policy.dataSubmissionEnabled", "false".into()),
            ("toolkit.telemetry.enabled", "false".into()),
            ("network.captive-portal-service.enabled", "false".into()),
            ("network.connectivity-service.enabled", "false".into()),
            ("services.settings.server", "\"data:,\"".into()),
        ];
        let lines = preferences.map(|(name, value)| format!("user_pref(\"{name}\", {value});\n"));
        std::fs::write(profile.path().join("user.js"), lines.concat()).unwrap();
        let process = Command::new("firefox-esr")
            .args(["--headless", "--marionette", "--no-remote", "--profile"])
            .arg(profile.path())
            // Its first start writes here as well.
            .env("HOME", profile.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("run the tests with scripts/test");
        let connects = async || TcpStream::connect(("127.0.0.1", port)).await.is_ok();
        wait_until(DEADLINE, "Firefox can be reached", connects).await;
        let connection = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let firefox = Self { process, connection: Mutex::new(connection), _profile: profile };
        // It speaks first.
        firefox.read(&mut *firefox.connection.lock().await).await;
        firefox.ask("WebDriver:NewSession", &json!({})).await;
        firefox.ask("WebDriver:Navigate", &json!({ "url": page })).await;
        firefox
    }

    /// The value of an expression, promises awaited.
    pub async fn eval(&self, expression: &str) -> Value {
        let script = format!("return (async () => ({expression}))()");
        // What one script leaves on the window, the next must find.
        let question = json!({ "script": script, "args": [], "newSandbox": false });
        self.ask("WebDriver:ExecuteScript", &question).await["value"].clone()
    }

    async fn ask(&self, command: &str, parameters: &Value) -> Value {
        let mut connection = self.connection.lock().await;
        let message = json!([0, 1, command, parameters]).to_string();
        connection.write_all(format!("{}:{message}", message.len()).as_bytes()).await.unwrap();
        // [1, id, error, result]
        let answer = self.read(&mut connection).await;
        assert!(answer[2].is_null(), "{command}: {}", answer[2]);
        answer[3].clone()
    }

    async fn read(&self, connection: &mut TcpStream) -> Value {
        let mut length = 0;
        loop {
            match connection.read_u8().await.unwrap() {
                b':' => break,
                digit => length = length * 10 + usize::from(digit - b'0'),
            }
        }
        let mut message = vec![0; length];
        connection.read_exact(&mut message).await.unwrap();
        serde_json::from_slice(&message).unwrap()
    }
}

impl Drop for Firefox {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
