import java.net.InetAddress;
import java.net.ServerSocket;
import java.util.Map;
import java.util.Timer;
import java.util.TimerTask;
import java.util.TreeMap;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;

/** Waits in the ways of Java; see waits.py. */
public class Waits {
    static final long WAIT = 200;
    static final Map<String, AtomicLong> counts = new TreeMap<>();

    interface Wait { void once() throws Exception; }

    static AtomicLong count(String way) {
        AtomicLong count = new AtomicLong();
        counts.put(way, count);
        return count;
    }

    static void again(String way, Wait wait) {
        AtomicLong count = count(way);
        Thread thread = new Thread(() -> {
            try {
                for (;; count.incrementAndGet()) wait.once();
            } catch (Exception error) {
                error.printStackTrace();
                System.exit(1);
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    public static void main(String[] args) throws Exception {
        Object monitor = new Object();
        again("wait", () -> { synchronized (monitor) { monitor.wait(WAIT); } });
        again("sleep", () -> Thread.sleep(WAIT));
        again("park", () -> LockSupport.parkNanos(WAIT * 1000000));
        var queue = new ArrayBlockingQueue<Integer>(1);
        again("poll", () -> queue.poll(WAIT, TimeUnit.MILLISECONDS));
        var latch = new CountDownLatch(1);
        again("await", () -> latch.await(WAIT, TimeUnit.MILLISECONDS));
        AtomicLong scheduled = count("scheduler"), timed = count("timer"), back = count("back");
        Executors.newScheduledThreadPool(1).scheduleAtFixedRate(scheduled::incrementAndGet, WAIT, WAIT, TimeUnit.MILLISECONDS);
        new Timer(true).schedule(new TimerTask() { public void run() { timed.incrementAndGet(); } }, WAIT, WAIT);
        long[] last = {System.nanoTime()};
        again("reads", () -> {
            long now = System.nanoTime();
            if (now < last[0]) back.incrementAndGet();
            last[0] = now;
            Thread.sleep(2);
        });
        try (var listener = new ServerSocket(7000, 16, InetAddress.getLoopbackAddress())) {
            for (;;) {
                try (var connection = listener.accept()) {
                    var line = new StringBuilder();
                    counts.forEach((way, count) -> line.append(line.length() > 0 ? " " : "").append(way).append("=").append(count));
                    connection.getOutputStream().write((line + "\n").getBytes());
                }
            }
        }
    }
}
