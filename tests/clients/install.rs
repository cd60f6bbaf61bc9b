//! Installs the clients into the folder of the build: npm with its lock file, pip with pinned versions, cargo with a
//! lock file of its own. What is there already stays, as long as those files are the same.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the programs are.
fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// A folder of the build for one language.
fn folder(language: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(language);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// curl's program.
pub fn curl() -> Command {
    let mut command = Command::new("bash");
    command.arg(sources().join("curl.sh"));
    command
}

/// A program of `node/`, with its arguments.
pub fn node(arguments: &[&str]) -> Command {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    let folder = INSTALLED.get_or_init(|| {
        let folder = folder("node");
        // Modules are looked for beside the program.
        for entry in std::fs::read_dir(sources().join("node")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
            }
        }
        once(&folder, "package-lock.json", |folder| {
            run(Command::new("npm")
                .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
                .current_dir(folder));
        });
        folder
    });
    let mut command = Command::new("node");
    command.args(arguments).current_dir(folder);
    command
}

/// A program of `python/`.
pub fn python(program: &str) -> Command {
    static INSTALLED: OnceLock<PathBuf> = OnceLock::new();
    let folder = INSTALLED.get_or_init(|| {
        let folder = folder("python");
        std::fs::copy(sources().join("python/requirements.txt"), folder.join("requirements.txt")).unwrap();
        once(&folder, "requirements.txt", |folder| {
            run(Command::new("python3").args(["-m", "venv", "--clear", "venv"]).current_dir(folder));
            let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
            let mut command = Command::new(folder.join("venv/bin/python"));
            run(command.args(pip).args(["--requirement", "requirements.txt"]).current_dir(folder));
        });
        folder
    });
    let mut command = Command::new(folder.join("venv/bin/python"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(sources().join("python").join(program));
    command
}

/// The program of `rust/` with one of its libraries.
pub fn rust(library: &str) -> Command {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let program = BUILT.get_or_init(|| {
        let (folder, manifest) = (folder("rust"), sources().join("rust/Cargo.toml"));
        let mut cargo = Command::new(env!("CARGO"));
        // What cargo tells this test about itself is not for another crate.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CARGO_")) {
            if ["PKG_", "MANIFEST_", "BIN_", "TARGET_TMPDIR"]
                .iter()
                .any(|own| name["CARGO_".len()..].starts_with(own))
            {
                cargo.env_remove(name);
            }
        }
        cargo.args(["build", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
        run(cargo.arg("--target-dir").arg(&folder));
        folder.join("debug/clients")
    });
    let mut command = Command::new(program);
    command.arg(library);
    command
}

/// Installs what `list` says, unless exactly that was installed before.
fn once(folder: &Path, list: &str, install: impl FnOnce(&Path)) {
    let (wanted, stamp) = (std::fs::read(folder.join(list)).unwrap(), folder.join("installed"));
    if std::fs::read(&stamp).is_ok_and(|installed| installed == wanted) {
        return;
    }
    install(folder);
    std::fs::write(stamp, wanted).unwrap();
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}; use scripts/test"));
    assert!(status.success(), "{command:?}");
}
