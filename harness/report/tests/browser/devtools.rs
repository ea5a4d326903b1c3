//! A headless Chromium, spoken to through a pair of pipes: NUL-ended JSON of its DevTools protocol.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Long enough for a browser that shares two cores with machines.
const PATIENCE: Duration = Duration::from_secs(120);

/// How long one may take to end.
const CLOSING: Duration = Duration::from_secs(20);

/// One browser with one page. It ends with this value, or when its pipe closes.
pub(crate) struct Browser {
    child: Child,
    to: ChildStdin,
    from: Receiver<Value>,
    session: Option<String>,
    id: u64,
    /// What the page complained of: exceptions, errors on its console, refused loads.
    pub(crate) complaints: Vec<String>,
}

impl Browser {
    pub(crate) fn start(program: &Path, profile: &Path) -> Self {
        // The protocol's pipes are descriptors 3 and 4; a shell puts them there.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1", "sh"])
            .arg(program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
                "--remote-debugging-pipe",
            ])
            .args(["--disable-dev-shm-usage", "--disable-background-networking", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (to, out) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, from) = channel();
        std::thread::spawn(move || {
            let mut out = BufReader::new(out);
            let mut message = Vec::new();
            while out.read_until(0, &mut message).is_ok_and(|n| n > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { break };
                if send.send(value).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut browser = Self { child, to, from, session: None, id: 0, complaints: vec![] };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached =
            browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        for domain in ["Runtime.enable", "Log.enable", "Page.enable", "Network.enable"] {
            browser.call(domain, json!({}));
        }
        browser
    }

    pub(crate) fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.id += 1;
        let mut message = json!({"id": self.id, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = self.from.recv_timeout(left).unwrap_or_else(|e| panic!("{method}: {e}"));
            self.listen(&answer);
            if answer["id"] == self.id {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
        }
    }

    fn listen(&mut self, event: &Value) {
        let parameters = &event["params"];
        let bad = match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" => true,
            "Runtime.consoleAPICalled" => {
                matches!(parameters["type"].as_str(), Some("error" | "warning" | "assert"))
            }
            "Log.entryAdded" => true,
            // The page itself is the only thing that may be loaded.
            "Network.requestWillBeSent" => {
                !parameters["request"]["url"].as_str().unwrap_or_default().starts_with("file:")
            }
            _ => false,
        };
        if bad {
            self.complaints.push(event.to_string());
        }
    }

    /// The value of an expression; one that is a promise is waited for.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true, told by the page at its next frame rather than asked again after a while.
    pub(crate) fn until(&mut self, expression: &str) {
        let limit = PATIENCE.as_millis() / 4;
        let script = format!(
            "new Promise((done) => {{ const began = performance.now(); const look = () => (({expression}) ? done(true) \
             : performance.now() - began > {limit} ? done(false) : requestAnimationFrame(look)); look(); }})"
        );
        if self.eval(&script) != true {
            let text = self.eval("document.body.innerText");
            panic!("never: {expression}\n{text}");
        }
    }

    pub(crate) fn open(&mut self, page: &Path) {
        self.call("Page.navigate", json!({"url": format!("file://{}", page.display())}));
        self.until("document.documentElement && document.documentElement.dataset.ready === ''");
    }

    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// Presses a key as a keyboard does it: the browser itself does with it what it does.
    pub(crate) fn press(&mut self, key: &str) {
        let (number, text) = match key {
            "Enter" => (13, "\r"),
            "Escape" => (27, ""),
            " " => (32, " "),
            "ArrowLeft" => (37, ""),
            "ArrowRight" => (39, ""),
            // Of a character the page looks at what it is, not at where it is on a keyboard.
            character => (0, character),
        };
        let event = |kind: &str| json!({"type": kind, "key": key, "windowsVirtualKeyCode": number});
        let mut down = event(if text.is_empty() { "rawKeyDown" } else { "keyDown" });
        if !text.is_empty() {
            down["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", down);
        self.call("Input.dispatchKeyEvent", event("keyUp"));
    }

    pub(crate) fn screenshot(&mut self, width: u32, height: u32) -> String {
        self.resize(width, height);
        self.call("Page.captureScreenshot", json!({"format": "png"}))["data"].as_str().unwrap().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Asked to, it ends its helpers as well, which write into the profile until then. It may have ended already.
        let close = json!({"id": self.id + 1, "method": "Browser.close"});
        if self.to.write_all(format!("{close}\0").as_bytes()).is_ok() {
            let deadline = Instant::now() + CLOSING;
            while self.from.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok() {}
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
