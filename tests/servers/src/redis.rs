use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use crate::process::{Server, find, on_free_port};

/// A Redis of its own, which appends each write to its file and syncs it before it answers.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    port: u16,
}

// ===== impl Redis =====

impl Redis {
    /// Starts one with `appendonly yes` and `appendfsync always`.
    ///
    /// # Panics
    ///
    /// If Redis is not installed or does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with these settings too, which go before its own.
    ///
    /// # Panics
    ///
    /// If Redis is not installed or does not start.
    #[must_use]
    pub fn start_with(settings: &[(&str, &str)]) -> Self {
        on_free_port("redis-server", |port| {
            let redis = Self { server: Server::new("redis-server"), port };
            let mut lines = format!(
                "bind 127.0.0.1\nport {port}\ndir {}\nappendonly yes\nappendfsync always\nsave \"\"\n",
                redis.server.folder().display()
            );
            for (name, value) in settings {
                lines.extend([name, " ", value, "\n"]);
            }
            drop(redis.server.write("redis.conf", &lines));
            if redis.launch() { Ok(redis) } else { Err(redis.server.log()) }
        })
    }

    fn launch(&self) -> bool {
        let settings = self.server.folder().join("redis.conf");
        let program = find("redis-server");
        self.server.start(&program, &[settings.as_os_str()], || {
            // One that asks for a password, or still reads its file, says so: it is there.
            self.ask(&["PING"]).is_ok_and(|answer| !answer.starts_with("-LOADING"))
        })
    }

    /// Returns the address.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Returns the port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Sends a command and returns the first line of the answer, with the text where it has one.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached.
    pub fn ask(&self, command: &[&str]) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut words = format!("*{}\r\n", command.len());
        for word in command {
            words.extend(["$", &word.len().to_string(), "\r\n", word, "\r\n"]);
        }
        stream.write_all(words.as_bytes())?;
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        if answer.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_owned();
        let length = line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok());
        let Some(length) = length else { return Ok(line) };
        let mut text = vec![0; length];
        answer.read_exact(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// Stops the server in order and starts it again.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn restart(&self) {
        self.stop();
        self.start_again();
    }

    /// Stops the server in order.
    pub fn stop(&self) {
        self.server.stop("TERM");
    }

    /// Kills the server, as a crash does.
    pub fn kill(&self) {
        self.server.stop("KILL");
    }

    /// Starts a server that was stopped or killed, on the same file and port.
    ///
    /// # Panics
    ///
    /// If it does not start.
    pub fn start_again(&self) {
        assert!(self.launch(), "redis-server does not start again:\n{}", self.server.log());
    }

    /// Returns what the server has said.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.log()
    }
}
