//! Exact results of queueing theory: the yardstick for the simulator.
//!
//! M/M/c with one queue in front (Erlang 1917; see Kleinrock, "Queueing Systems" 1, 1975, chapter
//! 3). With `c = 1` it is M/M/1, which is what each worker is under the random policy. The time in
//! the system is the wait, which is exponential if there is one, plus the service.

/// A queue with Poisson arrivals and exponential service at `servers` equal servers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MarkovQueue {
    /// Arrivals per second.
    pub arrival_rate: f64,
    /// Services per second of one server.
    pub service_rate: f64,
    /// How many servers share the queue.
    pub servers: usize,
}

impl MarkovQueue {
    /// Busy share of each server; the queue grows without end at 1 and above.
    pub fn utilisation(&self) -> f64 {
        self.arrival_rate / (self.service_rate * self.servers as f64)
    }

    /// Probability that an arrival has to wait (Erlang C); 1 if the queue is unstable.
    pub fn wait_probability(&self) -> f64 {
        let load = self.arrival_rate / self.service_rate;
        if load >= self.servers as f64 {
            return 1.0;
        }
        // Erlang B by its recursion, which does not overflow for any number of servers.
        let blocked = (1..=self.servers).fold(1.0, |b, k| load * b / (k as f64 + load * b));
        blocked / (1.0 - self.utilisation() * (1.0 - blocked))
    }

    /// Mean seconds from arrival to departure.
    pub fn mean(&self) -> f64 {
        if self.utilisation() >= 1.0 {
            return f64::INFINITY;
        }
        self.wait_probability() / self.drain() + 1.0 / self.service_rate
    }

    /// Seconds from arrival to departure that a share `q` of the requests does not exceed.
    pub fn quantile(&self, q: f64) -> f64 {
        if self.utilisation() >= 1.0 {
            return f64::INFINITY;
        }
        let (mut low, mut high) = (0.0, 1.0 / self.service_rate);
        while self.tail(high) > 1.0 - q {
            high *= 2.0;
        }
        for _ in 0..200 {
            let middle = f64::midpoint(low, high);
            if self.tail(middle) > 1.0 - q { low = middle } else { high = middle }
        }
        high
    }

    /// Rate at which a queue drains while all servers are busy.
    fn drain(&self) -> f64 {
        self.service_rate * self.servers as f64 - self.arrival_rate
    }

    /// Probability that a request takes longer than `time`.
    fn tail(&self, time: f64) -> f64 {
        let (mu, theta, wait) = (self.service_rate, self.drain(), self.wait_probability());
        let service = (-mu * time).exp();
        let both = if (theta - mu).abs() < 1e-9 * mu {
            (1.0 + mu * time) * service
        } else {
            (theta * service - mu * (-theta * time).exp()) / (theta - mu)
        };
        (1.0 - wait) * service + wait * both
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-9 * b.abs()
    }

    #[test]
    fn one_server_has_the_textbook_answers() {
        let queue = MarkovQueue { arrival_rate: 0.8, service_rate: 1.0, servers: 1 };
        assert!(close(queue.wait_probability(), 0.8));
        assert!(close(queue.mean(), 5.0));
        assert!(close(queue.quantile(0.99), 100.0_f64.ln() / 0.2));
    }

    #[test]
    fn two_servers_have_the_textbook_answers() {
        // For c = 2: C = 2 rho^2 / (1 + rho), mean = 1 / (mu (1 - rho^2)).
        let queue = MarkovQueue { arrival_rate: 1.5, service_rate: 1.0, servers: 2 };
        assert!(close(queue.wait_probability(), 2.0 * 0.75 * 0.75 / 1.75));
        assert!(close(queue.mean(), 1.0 / (1.0 - 0.75 * 0.75)));
    }

    #[test]
    fn ten_thousand_servers_do_not_overflow() {
        let queue = MarkovQueue { arrival_rate: 9500.0, service_rate: 1.0, servers: 10_000 };
        assert!((0.0..1e-3).contains(&queue.wait_probability()));
        assert!((queue.mean() - 1.0).abs() < 1e-3);
        let unstable = MarkovQueue { arrival_rate: 2.0, service_rate: 1.0, servers: 2 };
        assert!(unstable.mean().is_infinite() && unstable.quantile(0.5).is_infinite());
    }
}
