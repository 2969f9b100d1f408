import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;

/** Answers `COUNT SECONDS QUERY`: a counter of all threads, and one that a timer moves. */
public class App {
    public static void main(String[] args) throws Exception {
        AtomicLong count = new AtomicLong(), ticks = new AtomicLong();
        var timer = Executors.newScheduledThreadPool(1);
        timer.scheduleAtFixedRate(ticks::incrementAndGet, 10, 10, java.util.concurrent.TimeUnit.MILLISECONDS);
        var server = HttpServer.create(new InetSocketAddress("127.0.0.1", 8000), 0);
        server.setExecutor(Executors.newFixedThreadPool(8));
        server.createContext("/", exchange -> {
            var answer = (count.incrementAndGet() + " " + ticks.get() + " " + exchange.getRequestURI().getQuery() + "\n").getBytes();
            exchange.sendResponseHeaders(200, answer.length);
            exchange.getResponseBody().write(answer);
            exchange.close();
        });
        server.start();
    }
}
