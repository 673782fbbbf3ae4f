//! Brokers for tests, started by the project's own script.

use std::{net::TcpListener, path::PathBuf, process::Command, sync::OnceLock};

/// A broker of this test process; it ends with it, however it ends.
pub struct Broker {
    dir: tempfile::TempDir,
    port: u16,
    controller_port: u16,
}

impl Broker {
    pub fn start() -> Self {
        let (one, two) = (free_port(), free_port());
        let dir = tempfile::tempdir().unwrap();
        let broker = Self { dir, port: port(&one), controller_port: port(&two) };
        drop((one, two));
        broker.run("start");
        broker
    }

    pub fn run(&self, command: &str) {
        let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../deploy/dev/kafka.sh");
        let output = Command::new(script)
            .arg(command)
            .env("KAFKA_DIR", self.dir.path().join("broker"))
            .env("KAFKA_PORT", self.port.to_string())
            .env("KAFKA_CTRL_PORT", self.controller_port.to_string())
            .env("KAFKA_HEAP", "256m")
            .env("KAFKA_OWNER", std::process::id().to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "kafka.sh {command}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.run("stop");
    }
}

fn free_port() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn port(listener: &TcpListener) -> u16 {
    listener.local_addr().unwrap().port()
}

/// The broker that most tests share: `WEIR_TEST_KAFKA`, or one of our own.
pub async fn shared() -> String {
    static OWN: OnceLock<Broker> = OnceLock::new();
    match std::env::var("WEIR_TEST_KAFKA") {
        Ok(address) => address,
        Err(_) => {
            tokio::task::spawn_blocking(|| OWN.get_or_init(Broker::start).address()).await.unwrap()
        }
    }
}

/// A topic that no other test uses.
pub fn topic(name: &str) -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    format!("test-{name}-{}-{}", std::process::id(), now.as_nanos())
}
