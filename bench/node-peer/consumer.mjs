// The queue's side of a worker: prefetch, `multiple` acks once the adapter's publish was answered. Knows no socket.
import amqp from "amqplib";

// what Herald's ingest declares, so that either finds the queue as the other left it
const queueArguments = (type) => ({
  "x-queue-type": type,
  "x-message-ttl": 600_000,
  "x-dead-letter-exchange": "herald.dead-letter",
  ...(type === "quorum" && {
    "x-delivery-limit": 100,
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
  }),
});

export async function consume(settings, deliver, die) {
  const connection = await amqp.connect(settings.amqp, { noDelay: true });
  connection.on("error", die);
  const channel = await connection.createChannel();
  await channel.assertExchange("herald.dead-letter", "fanout", { durable: true });
  await channel.assertQueue("herald.dead-letter", {
    durable: true,
    arguments: {
      "x-queue-type": "quorum",
      "x-message-ttl": 7 * 24 * 3_600_000,
      "x-max-length-bytes": 2 ** 30,
    },
  });
  await channel.bindQueue("herald.dead-letter", "herald.dead-letter", "");
  await channel.assertQueue(settings.queue, { durable: true, arguments: queueArguments(settings["queue-type"]) });
  await channel.prefetch(Number(settings.prefetch));

  let newest = null; // the last delivery that is not acknowledged or about to be
  let taken = null; // resolves when Redis has it and all before it
  const acknowledge = () => {
    const upTo = newest;
    newest = null;
    taken.then(() => channel.ack(upTo, true), die);
  };

  const { consumerTag } = await channel.consume(settings.queue, (delivery) => {
    if (delivery === null) return die("RabbitMQ cancelled the consumer");
    try {
      taken = deliver(delivery.content);
    } catch (error) {
      console.error(`not delivered: ${error.message}`); // acknowledged with the others: never in a loop
      taken ??= Promise.resolve();
    }
    // one ack for all that one read of the connection brought
    if (newest === null) setImmediate(acknowledge);
    newest = delivery;
  });

  return {
    stop: async () => {
      await channel.cancel(consumerTag);
      await connection.close();
    },
  };
}
