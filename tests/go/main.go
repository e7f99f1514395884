package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"example.org/shop/iris"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func main() {
	conn, err := grpc.Dial(os.Args[1], grpc.WithInsecure(),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	client := iris.NewIrisPredictorClient(conn)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	row := &iris.IrisRow{
		SepalLength: proto.Float64(5.1), SepalWidth: proto.Float64(3.5),
		PetalLength: proto.Float64(1.4), PetalWidth: proto.Float64(0.2),
	}
	one, err := client.PredictRow(ctx, row)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("one row:", one.GetOutput_0(), "by version", one.GetModelVersion())

	several, err := client.Predict(ctx, &iris.IrisRequest{
		SepalLength: []float64{5.1, 6}, SepalWidth: []float64{3.5, 3},
		PetalLength: []float64{1.4, 5}, PetalWidth: []float64{0.2, 2},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("two rows:", several.GetOutput_0())

	row.PetalWidth = nil
	_, err = client.PredictRow(ctx, row)
	refusal, _ := status.FromError(err)
	fmt.Println("refused:", refusal.Code(), refusal.Message())
}
