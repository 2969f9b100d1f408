/* counter answers each HTTP request with the number of requests so far. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int main(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(8080)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	long requests = 0;
	char text[4096];

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 16)) {
		perror("counter");
		return EXIT_FAILURE;
	}
	for (;;) {
		int client = accept(listener, NULL, NULL);

		if (client < 0)
			continue;
		if (read(client, text, sizeof(text)) > 0) {
			snprintf(text, sizeof(text), "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n%ld\n", ++requests);
			if (write(client, text, strlen(text)) < 0)
				perror("counter");
		}
		close(client);
	}
}
